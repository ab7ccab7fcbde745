"""What all tests share: reference data, a home of their own, one thread each, fixed seeds."""

from __future__ import annotations

import ctypes
import importlib.util
import io
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

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
    for name, (present, said) in NEEDS.items():
        if os.environ.get(required := f"DICENAS_REQUIRE_{name.upper()}") == "1" and not present():
            raise pytest.UsageError(f"{required}=1, but: {said}")
    # NNI writes to ~/nni-experiments; a home for each worker keeps them from waiting for one another's locks.
    home = tempfile.TemporaryDirectory(prefix="dicenas-tests-")
    patch = pytest.MonkeyPatch()
    patch.setenv("HOME", home.name)
    config.add_cleanup(home.cleanup)
    config.add_cleanup(patch.undo)


def gpu_is_present() -> bool:
    """Asks the driver, not torch, which the process that only hands out tests does not import."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


#: Fixtures that not every machine has what it takes for: whether this one does, and what is said where it does not.
#: With ``DICENAS_REQUIRE_<FIXTURE>=1`` that is an error, else the tests that take the fixture are deselected.
NEEDS = {
    "reference": (reference_is_present, f"No reference data in {REFERENCE} (DICENAS_REFERENCE: its folder)"),
    "gpu": (gpu_is_present, "No CUDA device"),
    "postgres": (
        lambda: shutil.which("initdb") is not None or any(Path("/usr/lib/postgresql").glob("*/bin/initdb")),
        "No PostgreSQL server (Debian: apt-get install postgresql)",
    ),
    "mariadb": (
        lambda: shutil.which("mariadbd") is not None or Path("/usr/sbin/mariadbd").is_file(),
        "No MariaDB server (Debian: apt-get install mariadb-server)",
    ),
    "chromium": (lambda: shutil.which("chromium") is not None, "No Chromium (Debian: apt-get install chromium)"),
    "small_disk": (lambda: sys.platform == "linux" and os.geteuid() == 0, "Not root, who alone may mount a small disk"),
    "nvcc": (lambda: shutil.which("nvcc") is not None, "No nvcc on PATH"),
    "openvino": (
        lambda: importlib.util.find_spec("openvino") is not None,
        "No OpenVINO (pip install 'dicenas[openvino]')",
    ),
}


def missing() -> list[str]:
    return [name for name, (present, _) in NEEDS.items() if not present()]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    lacking = set(missing())
    kept: list[pytest.Item] = []
    deselected: list[pytest.Item] = []
    for item in items:
        # `-k reference` is for every test that reads of it, whatever its name.
        item.extra_keyword_matches.update(NEEDS.keys() & getattr(item, "fixturenames", ()))
        (deselected if lacking.intersection(getattr(item, "fixturenames", ())) else kept).append(item)
    config.hook.pytest_deselected(items=deselected)
    items[:] = kept


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if "paper" in config.getoption("keyword"):
        print_paper_tables(terminalreporter)
    for name in missing():
        terminalreporter.write_line(f"{NEEDS[name][1]}: the tests that need it were deselected.")


def print_paper_tables(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what `pytest -k paper` is about, the paper's tables with ours beside them."""
    from dicenas.paper.compare import compare_figure_2, compare_table, compared_tables
    from dicenas.report import print_table

    terminalreporter.section("the paper's tables")
    tables = [table for number in compared_tables() for table in compare_table(number)]
    for table in (*tables, compare_figure_2()[0]):
        text = io.StringIO()
        print_table(table.columns, table.rows, align=table.align, title=table.title, file=text)
        terminalreporter.write_line("\n".join([text.getvalue(), *table.notes, ""]))


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


@pytest.fixture(scope="session")
def gpu() -> Any:
    """The first CUDA device, as a ``torch.device``."""
    import torch

    assert torch.cuda.is_available(), f"there is a CUDA device, but torch {torch.__version__} cannot use it"
    return torch.device("cuda", 0)


@pytest.fixture(scope="session")
def nvcc() -> str:
    """The CUDA compiler."""
    found = shutil.which("nvcc")
    assert found is not None
    return found


@pytest.fixture(scope="session")
def openvino() -> Any:
    """The package of that name."""
    return importlib.import_module("openvino")
