"""The CUDA kernels, run on the host by the emulation: all but the driver's calls is the product's code."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dicenas.ops import dim_conv_reference
from dicenas.ops.kernels import build, launches, nvrtc
from tests.kernels.emulation import RACES, EmulationError, EmulationLauncher, compile_emulation, kernels_file
from tests.kernels.test_cpu import TOLERANCE, arguments, assert_close, reference_in_double

#: Among them single pixels, several images a block, several chunks of channels, more than 1024 pixels, none.
SHAPES = [(1, 1, 1, 1), (3, 10, 7, 7), (2, 35, 13, 9), (1, 12, 28, 28), (1, 3, 40, 33), (0, 4, 5, 6)]
#: Registers that a kernel may take on compute capability 9.0, by kernel size: with 64 half of the threads that a
#: multiprocessor can hold are there, with 128 a quarter.
REGISTERS = {
    "k3": {"dim_conv": 64, "dim_conv_local": 64, "grad_input": 80, "grad_rows_columns": 64, "grad_channels": 64},
    "k5": {"dim_conv": 128, "dim_conv_local": 128, "grad_input": 144, "grad_rows_columns": 96, "grad_channels": 64},
}


@pytest.fixture(scope="session", params=[(), RACES], ids=["plain", "races"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("emulation") / "emulation.so"
    compile_emulation(kernels_file(), output, *request.param)
    return output


def run_all(launcher: EmulationLauncher, tensors: list[Tensor], grad: Tensor) -> list[Tensor]:
    y = launches.dim_conv(launcher, *tensors)
    return [y, *launches.dim_conv_backward(launcher, grad, *tensors, True, True)]


def check_all(launcher: EmulationLauncher, shape: tuple[int, ...], kernel_size: int, dtype: torch.dtype) -> None:
    """Run every kernel of a data type and a kernel size, and compare with double precision."""
    tensors = arguments(shape, kernel_size, dtype)
    grad, local = torch.randn(shape[0], 3 * shape[1], *shape[2:]).to(dtype), torch.randn(shape[1], 14)
    expected, grads = reference_in_double(tensors, grad)
    for actual, wanted in zip(run_all(launcher, tensors, grad), [expected, *grads], strict=True):
        assert actual.dtype == dtype
        assert_close(actual, wanted, TOLERANCE[dtype])
    fused = launches.dim_conv_local(launcher, *tensors, local)
    assert fused.dtype == dtype
    assert_close(fused, fused_reference([t.double() for t in tensors], local.double()), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape: tuple[int, ...], kernel_size: int, dtype: torch.dtype, library: Path) -> None:
    check_all(EmulationLauncher(library), shape, kernel_size, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("order", [0, 2])
def test_maps_of_the_network(order: int, dtype: torch.dtype, library: Path) -> None:
    for shape in ((1, 116, 28, 28), (2, 232, 14, 14), (3, 464, 7, 7)):
        for kernel_size in (3, 5):
            check_all(EmulationLauncher(library, order, processors=132), shape, kernel_size, dtype)


def test_every_kernel_is_run(library: Path) -> None:
    launcher = EmulationLauncher(library)
    for dtype in TOLERANCE:
        for kernel_size in (3, 5):
            check_all(launcher, (2, 5, 4, 3), kernel_size, dtype)
    assert sorted(set(launcher.launched)) == launcher.kernels() == sorted(launches.KERNELS)


@given(
    n=st.integers(1, 4),
    c=st.integers(1, 20),
    h=st.integers(1, 20),
    w=st.integers(1, 20),
    kernel_size=st.sampled_from([3, 5]),
    processors=st.sampled_from([1, 4, 132]),
    order=st.integers(0, 5),
    channels_last=st.booleans(),
)
def test_any_shape_device_and_order(
    library: Path, n: int, c: int, h: int, w: int, kernel_size: int, processors: int, order: int, channels_last: bool
) -> None:
    torch.manual_seed(n * 1000 + c * 100 + h * 10 + w)
    tensors = arguments((n, c, h, w), kernel_size)
    if channels_last:
        tensors[0] = tensors[0].to(memory_format=torch.channels_last)
    grad = torch.randn(n, 3 * c, h, w)
    expected, grads = reference_in_double(tensors, grad)
    launcher = EmulationLauncher(library, order, processors)
    for actual, wanted in zip(run_all(launcher, tensors, grad), [expected, *grads], strict=True):
        assert_close(actual, wanted, TOLERANCE[torch.float32])


def test_order_of_threads_changes_no_bit(library: Path) -> None:
    tensors = arguments((3, 20, 9, 13))
    grad = torch.randn(3, 60, 9, 13)
    first, *others = (run_all(EmulationLauncher(library, order), tensors, grad) for order in (0, 1, 2, 3))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_only_the_wanted_gradients(library: Path) -> None:
    tensors = arguments((2, 4, 5, 6))
    grad = torch.randn(2, 12, 5, 6)
    launcher = EmulationLauncher(library)
    launches.dim_conv_backward(launcher, grad, *tensors, False, False)
    assert launcher.launched == []
    launches.dim_conv_backward(launcher, grad, *tensors, True, False)
    assert launcher.launched == ["grad_input_float32_k3"]


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_unit_in_inference(shape: tuple[int, ...], kernel_size: int, library: Path) -> None:
    tensors = arguments(shape, kernel_size)
    c = shape[1]
    local, spatial = torch.randn(c, 14), torch.randn(c, 11)
    reduce, expand = torch.randn(max(1, c // 4), c), torch.randn(c, max(1, c // 4))
    launcher = EmulationLauncher(library)
    fused = fused_reference([t.double() for t in tensors], local.double())
    assert_close(launches.dim_conv_local(launcher, *tensors, local), fused, TOLERANCE[torch.float32])
    unit = unit_reference(fused, spatial.double(), reduce.double(), expand.double())
    assert_close(launches.dice_unit(launcher, *tensors, local, spatial, reduce, expand), unit, 1e-5)


def fused_reference(tensors: list[Tensor], local: Tensor) -> Tensor:
    branches = dim_conv_reference(*tensors).unflatten(1, (3, -1))
    scale, shift, slope = (local[:, i:9:3].t()[..., None, None] for i in range(3))
    branches = branches * scale + shift
    branches = torch.where(branches > 0, branches, slope * branches)
    out = (branches * local[:, 9:12].t()[..., None, None]).sum(1) + local[:, 12, None, None]
    return torch.where(out > 0, out, local[:, 13, None, None] * out)


def unit_reference(x: Tensor, spatial: Tensor, reduce: Tensor, expand: Tensor) -> Tensor:
    c = x.shape[1]
    gate = torch.sigmoid(F.relu(x.mean((2, 3)) @ reduce.t()) @ expand.t())
    y = F.conv2d(x, spatial[:, :9].reshape(c, 1, 3, 3), spatial[:, 9], padding=1, groups=c)
    return torch.where(y > 0, y, spatial[:, 10, None, None] * y) * gate[..., None, None]


def test_a_launch_that_devices_refuse_is_reported(library: Path) -> None:
    launcher = EmulationLauncher(library)
    with pytest.raises(EmulationError, match="refuses"):
        launcher.launch("sum_parts", (1, 1, 1), 2048, 0, launches.Arguments())
    with pytest.raises(EmulationError, match="no such kernel"):
        launcher.launch("no_such_kernel", (1, 1, 1), 32, 0, launches.Arguments())


def test_too_large_an_input_is_refused() -> None:
    x = torch.empty(1, 1, 1, 1).expand(2**16, 1, 2**8, 2**8)
    with pytest.raises(ValueError, match="32 bits"):
        launches._arguments(x, (torch.empty(1), torch.empty(1), torch.empty(1)))


def test_nvrtc_compiles_the_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if torch.version.cuda is None:
        with pytest.raises(build.BuildError, match="without CUDA"):
            nvrtc.compile_cubin((9, 0))
        return
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cubin = nvrtc.compile_cubin((9, 0))
    assert cubin.startswith(b"\x7fELF")
    assert b"grad_rows_columns_bfloat16_k5" in cubin
    assert nvrtc.compile_cubin((9, 0)) == cubin
    assert len(list(tmp_path.rglob("*.cubin"))) == 1


@pytest.mark.slow
def test_register_budget(nvcc: str, tmp_path: Path) -> None:
    source = kernels_file().with_name("dicenas_cuda.cu")
    command = [nvcc, "-O3", "-std=c++17", "--cubin", "-arch=sm_90", "-Xptxas", "-v", str(source)]
    done = subprocess.run([*command, "-o", str(tmp_path / "out")], capture_output=True, text=True, check=True)
    report = re.findall(r"'(\w+)' for.*?(\d+) bytes spill stores.*?Used (\d+) registers", done.stderr, re.S)
    assert sorted(name for name, _, _ in report) == sorted(launches.KERNELS)
    assert [name for name, spilled, _ in report if int(spilled)] == []
    budget = {name: REGISTERS[name[-2:]][name.rsplit("_", 2)[0]] for name in launches.KERNELS if name != "sum_parts"}
    budget["sum_parts"] = 64
    assert {name: int(taken) for name, _, taken in report if int(taken) > budget[name]} == {}
