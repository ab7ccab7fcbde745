"""Memory errors and races of the CUDA kernels in the emulation, and that planted ones are found."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.kernels.emulation import (
    ADDRESSES,
    RACES,
    EmulationError,
    EmulationLauncher,
    compile_emulation,
    kernels_file,
)
from tests.kernels.test_cuda import check_all

#: Runs every kernel, in a process of its own with address sanitizer around every tensor's memory.
SWEEP = """
import sys
from pathlib import Path
import torch
from tests.kernels.emulation import EmulationLauncher
from tests.kernels.test_cuda import SHAPES, check_all
from tests.kernels.test_cpu import TOLERANCE
library, dtypes, sizes, orders = Path(sys.argv[1]), *(int(v) for v in sys.argv[2:])
torch.manual_seed(0)
for shape in SHAPES:
    for dtype in list(TOLERANCE)[:dtypes]:
        for kernel_size in (3, 5)[:sizes]:
            for order in range(orders):
                check_all(EmulationLauncher(library, order), shape, kernel_size, dtype)
"""


def run_with_address_sanitizer(
    program: str, *arguments: object, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python code whose libraries are compiled with address sanitizer, in a process of its own."""
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environment = {**os.environ, **environment, "LD_PRELOAD": runtime.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0"}
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)


def sweep(library: Path, dtypes: int = 3, sizes: int = 2, orders: int = 1) -> subprocess.CompletedProcess[str]:
    return run_with_address_sanitizer(SWEEP, library, dtypes, sizes, orders)


def plant(before: str, after: str, folder: Path, *flags: str) -> Path:
    """Compile the kernels of float32 and size 3 with a change."""
    source = kernels_file().read_text(encoding="utf-8")
    assert before in source
    source = re.sub(r"^DICENAS_KERNELS_OF\((?!float, float32, 3).*\n", "", source.replace(before, after), flags=re.M)
    (folder / "kernels.cuh").write_text(source, encoding="utf-8")
    compile_emulation(folder / "kernels.cuh", folder / "emulation.so", *flags)
    return folder / "emulation.so"


def test_no_access_outside_the_buffers(tmp_path: Path) -> None:
    compile_emulation(kernels_file(), tmp_path / "emulation.so", *ADDRESSES)
    done = sweep(tmp_path / "emulation.so")
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # Values outside the buffer that are multiplied by nothing: the results are right.
        ("columns >> j & 1 ? to_float(in[branch + j - R]) : 0.0f", "(columns >> j & 1) * to_float(in[branch + j - R])"),
        pytest.param("q >= 0 && q < a.c", "q >= 0", marks=pytest.mark.slow),
        pytest.param("if (index >= (long long)a.n * size) return;", "", marks=pytest.mark.slow),
        pytest.param("h < a.h && w < a.w;", "h < a.h;", marks=pytest.mark.slow),
        pytest.param("if (tile_x * a.tile_w + x >= a.w) continue;", "", marks=pytest.mark.slow),
    ],
)
def test_planted_overruns_are_found(before: str, after: str, tmp_path: Path) -> None:
    done = sweep(plant(before, after, tmp_path, *ADDRESSES), 1, 1, 1)
    assert "heap-buffer-overflow" in done.stderr
    assert "kernels.cuh:" in done.stderr


@pytest.mark.parametrize(
    ("before", "after", "memory"),
    [
        ("  __syncthreads();\n\n  const int size", "\n  const int size", "shared"),
        ("    __syncthreads();\n    if ((int)threadIdx.x < half)", "    if ((int)threadIdx.x < half)", "shared"),
        ("  __syncthreads();\n  if (threadIdx.x < TAPS)", "  if (threadIdx.x < TAPS)", "shared"),
        (
            "  __syncthreads();\n#pragma unroll\n  for (int t = 0; t < TAPS; ++t) sums[threadIdx.x * TAPS + t] = sum_w",
            "#pragma unroll\n  for (int t = 0; t < TAPS; ++t) sums[threadIdx.x * TAPS + t] = sum_w",
            "shared",
        ),
        # Several threads write the same value.
        ("if (threadIdx.x < TAPS) a.parts", "for (unsigned t = 0; t < TAPS; ++t) a.parts", "global"),
        (
            "blockIdx.x * blockDim.x + threadIdx.x;\n  if (index",
            "(blockIdx.x * blockDim.x + threadIdx.x) % (a.n * size);\n  if (index",
            "global",
        ),
        # Two blocks write one part.
        ("(long long)blockIdx.z * gridDim.y + blockIdx.y,", "(long long)blockIdx.z * gridDim.y,", "global"),
    ],
)
def test_planted_races_are_found(before: str, after: str, memory: str, tmp_path: Path) -> None:
    library = plant(before, after, tmp_path, *RACES)
    with pytest.raises(EmulationError, match=rf"race in {memory} memory: .*kernels\.cuh:\d+"):
        check_all(EmulationLauncher(library), (2, 35, 13, 9), 3, torch.float32)


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        ("at + i - K / 2 >= 0 && ", "", AssertionError),  # the neighbour is the end of the row before
        ("q < 0 || q >= a.c", "q < 0", AssertionError),
        ("for (int i = R; i > 0; --i) waiting[i]", "for (int i = R; i > 1; --i) waiting[i]", AssertionError),
        ("constants[i] = value;", "if (t) constants[i] = value;", AssertionError),  # shared memory that nobody wrote
        (
            "    __syncthreads();\n    if ((int)threadIdx.x < half)",
            "    if ((int)threadIdx.x < half) __syncthreads();\n    if ((int)threadIdx.x < half)",
            EmulationError,
        ),
    ],
)
def test_planted_mistakes_are_found(before: str, after: str, error: type[Exception], tmp_path: Path) -> None:
    library = plant(before, after, tmp_path)
    with pytest.raises(error):
        check_all(EmulationLauncher(library), (2, 35, 13, 9), 3, torch.float32)
