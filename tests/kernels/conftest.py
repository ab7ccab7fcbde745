from __future__ import annotations

import pytest

from dicenas.ops import kernels


@pytest.fixture(scope="session", autouse=True)
def _cpu_library() -> None:
    """The tests are about the kernels: without their library they would compare the reference with itself."""
    assert kernels.available("cpu"), f"no CPU kernels: {kernels.load_library('cpu').reason}"
