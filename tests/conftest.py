"""What all tests share: reference data, a home of their own, one thread each, fixed seeds."""

from __future__ import annotations

import os
import random
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = Path(os.environ.get("DICENAS_REFERENCE", ROOT.parent / "shared")).resolve()

# Read by OpenMP when torch is loaded, here and in subprocesses: the tests run side by side, and their results
# should not depend on the number of cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

settings.register_profile("quick", max_examples=20, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=500, deadline=None)
settings.load_profile("quick")


def reference_is_present() -> bool:
    return (REFERENCE / "reference" / "units").is_dir()


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("DICENAS_REQUIRE_REFERENCE") == "1" and not reference_is_present():
        raise pytest.UsageError(
            f"DICENAS_REQUIRE_REFERENCE=1, but there is no reference data in {REFERENCE}: "
            "set DICENAS_REFERENCE to its folder"
        )
    # NNI writes to ~/nni-experiments; a home for each worker keeps them from waiting for one another's locks.
    home = tempfile.TemporaryDirectory(prefix="dicenas-tests-")
    patch = pytest.MonkeyPatch()
    patch.setenv("HOME", home.name)
    config.add_cleanup(home.cleanup)
    config.add_cleanup(patch.undo)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if reference_is_present():
        return
    kept: list[pytest.Item] = []
    deselected: list[pytest.Item] = []
    for item in items:
        (deselected if "reference" in getattr(item, "fixturenames", ()) else kept).append(item)
    config.hook.pytest_deselected(items=deselected)
    items[:] = kept


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not reference_is_present():
        terminalreporter.write_line(
            f"No reference data in {REFERENCE} (DICENAS_REFERENCE): the tests that need it were deselected."
        )


def pytest_runtest_setup() -> None:
    random.seed(0)
    # Seeds only what is there: most tests of the house import neither.
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(0)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of the reference data: ``DICENAS_REFERENCE``, by default ``../shared``."""
    return REFERENCE
