"""Memory errors of the CPU kernels, and that planted ones are found."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from dicenas.ops.kernels import build
from tests.kernels.test_sanitizers import run_with_address_sanitizer

#: Runs the operators in a process of its own, with address sanitizer around every tensor and every buffer.
SWEEP = """
import sys
from pathlib import Path
import torch
from dicenas.ops import kernels
from dicenas.ops.kernels import cpu, library
from tests.kernels.test_cpu import OTHER_SIZES, SHAPES, TOLERANCE, arguments, op
found = library._open("cpu", Path(sys.argv[1]), None)
assert found.handle is not None, found.reason
cpu.load_library = lambda kind: found
cpu.library.cache_clear()
torch.manual_seed(0)
torch.set_num_threads(2)
for shape, native in [*((shape, None) for shape in SHAPES), *OTHER_SIZES, ((8, 113, 25, 31), (28, 28))]:
    for dtype in TOLERANCE:
        for kernel_size in (3, 5):
            tensors = [t.requires_grad_() for t in arguments(shape, kernel_size, dtype, native)]
            y = op(*tensors)
            torch.autograd.grad(y, tensors, torch.ones_like(y))
            c = shape[1]
            with torch.no_grad():
                local, spatial, gate = torch.randn(c, 14), torch.randn(c, 11), torch.randn(2, c)
                kernels.dim_conv_local(*tensors, local)
                kernels.dice_unit(*tensors, local, spatial, gate, gate.t())
                maps = [tensors[0], tensors[0][:, -1:]]
                channels = torch.arange(c + 1).flip(0)
                kernels.select_channels(maps, channels)
                kernels.select_pointwise(maps, channels, torch.randn(7, c + 1), *torch.randn(2, 7))
                kernels.select_downsample(maps, channels, torch.randn(c + 1, 11))
"""


def sweep(
    folder: Path, isa: str, changes: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    """Compile the kernels with changes and with buffers of just the size that is asked for, and run them."""
    sources = build.source_folder()
    assert sources is not None
    changes = {"count > size_": "count != size_", "round_up(count, 1024)": "round_up(count, 16)", **changes}
    texts = {source.name: source.read_text(encoding="utf-8") for source in sources.glob("dicenas_cpu*")}
    for before, after in changes.items():
        (name,) = (name for name, text in texts.items() if before in text)
        texts[name] = texts[name].replace(before, after)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    library = folder / "kernels.so"
    command = ["g++", "-O0", "-g1", "-std=c++17", "-fopenmp", "-fPIC", "-shared", "-Wno-psabi", "-fsanitize=address"]
    subprocess.run([*command, folder / "dicenas_cpu.cpp", "-o", library], check=True)
    return run_with_address_sanitizer(SWEEP, library, DICENAS_CPU_ISA=isa)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_no_access_outside_the_buffers(isa: str, tmp_path: Path) -> None:
    done = sweep(tmp_path, isa)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("scratch(size + resizing_size(a, R))", "scratch(size)"),
        ("if (offset + LANES <= size) store", "if (offset < size) store"),
        ("store_first(pooled + at, all, count)", "store(pooled + at, all)"),
        ("scratch(2 * g.size + round_up(g.w, 16))", "scratch(2 * g.size)"),
    ],
)
def test_planted_overruns_are_found(before: str, after: str, tmp_path: Path) -> None:
    done = sweep(tmp_path, "avx2", {before: after})
    assert "heap-buffer-overflow" in done.stderr
    assert "dicenas_cpu" in done.stderr
