"""The fused inference kernels of the CPU against standard operators in double precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dicenas.ops import kernels
from tests.kernels.test_cpu import TOLERANCE, arguments, assert_close
from tests.kernels.test_cuda import fused_reference, unit_reference


@given(
    n=st.integers(0, 4),
    c=st.integers(1, 40),
    h=st.integers(1, 30),
    w=st.integers(1, 30),
    native=st.none() | st.tuples(st.integers(1, 40), st.integers(1, 40)),
    kernel_size=st.sampled_from([3, 5]),
    dtype=st.sampled_from(list(TOLERANCE)),
    threads=st.sampled_from([1, 2, 3]),
)
def test_unit(
    n: int,
    c: int,
    h: int,
    w: int,
    native: tuple[int, int] | None,
    kernel_size: int,
    dtype: torch.dtype,
    threads: int,
) -> None:
    torch.manual_seed(n * 1000 + c * 100 + h * 10 + w)
    tensors = arguments((n, c, h, w), kernel_size, dtype, native)
    squeezed = max(1, c // 4)
    local, spatial = torch.randn(c, 14), torch.randn(c, 11)
    reduce, expand = torch.randn(squeezed, c), torch.randn(c, squeezed)
    expected = fused_reference([t.double() for t in tensors], local.double())
    torch.set_num_threads(threads)
    fused = kernels.dim_conv_local(*tensors, local)
    unit = kernels.dice_unit(*tensors, local, spatial, reduce, expand)
    torch.set_num_threads(1)
    assert fused.dtype == unit.dtype == dtype
    assert_close(fused, expected, 2 * TOLERANCE[dtype])
    expected = unit_reference(expected, spatial.double(), reduce.double(), expand.double())
    assert_close(unit, expected, 1e-5 if dtype == torch.float32 else 2 * TOLERANCE[dtype])


@given(
    n=st.integers(0, 4),
    c=st.integers(1, 70),
    out_channels=st.integers(1, 30),
    h=st.integers(1, 12),
    w=st.integers(1, 12),
    dtype=st.sampled_from(list(TOLERANCE)),
    layout=st.sampled_from(["contiguous", "half", "channels_last"]),
    threads=st.sampled_from([1, 2, 3]),
)
def test_pointwise(
    n: int, c: int, out_channels: int, h: int, w: int, dtype: torch.dtype, layout: str, threads: int
) -> None:
    torch.manual_seed(n * 1000 + c * 100 + h * 10 + w)
    x = torch.randn(n, c + 3, h, w).to(dtype)[:, 3:]
    if layout != "half":
        x = x.contiguous(memory_format=getattr(torch, f"{layout}_format" if layout == "contiguous" else layout))
    weight, bias, slope = torch.randn(out_channels, c), torch.randn(out_channels), torch.randn(out_channels)
    torch.set_num_threads(threads)
    y = kernels.pointwise(x, weight, bias, slope)
    torch.set_num_threads(1)
    assert y.dtype == dtype
    expected = F.conv2d(x.double(), weight.double()[..., None, None], bias.double())
    expected = torch.where(expected > 0, expected, slope.double()[:, None, None] * expected)
    assert_close(y, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_pointwise_of_many_channels(threads: int) -> None:
    # An image is several groups of pixels; three threads share the output channels of two images.
    x, weight = torch.randn(2, 1500, 13, 11), torch.randn(23, 1500)
    bias, slope = torch.randn(23), torch.randn(23)
    torch.set_num_threads(threads)
    y = kernels.pointwise(x, weight, bias, slope)
    torch.set_num_threads(1)
    expected = F.conv2d(x.double(), weight.double()[..., None, None], bias.double())
    assert_close(y, F.prelu(expected, slope.double()), 1e-5)


def some_maps(n: int, sizes: list[int], h: int, w: int, dtype: torch.dtype, layout: str) -> list[Tensor]:
    """Maps of ``sizes`` channels, of which some are slices of larger ones."""
    maps = []
    for c in sizes:
        x = torch.randn(n, c + 2, h, w).to(dtype)
        maps.append(x[:, 1:-1] if layout == "slices" else x[:, 1:-1].contiguous(memory_format=torch.channels_last))
    return maps


@given(
    n=st.integers(0, 3),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    h=st.integers(1, 20),
    w=st.integers(1, 40),
    dtype=st.sampled_from(list(TOLERANCE)),
    layout=st.sampled_from(["slices", "channels_last"]),
    threads=st.sampled_from([1, 2, 3]),
    data=st.data(),
)
def test_channels_of_several_maps(
    n: int, sizes: list[int], h: int, w: int, dtype: torch.dtype, layout: str, threads: int, data: st.DataObject
) -> None:
    torch.manual_seed(n * 1000 + h * 10 + w)
    maps = some_maps(n, sizes, h, w, dtype, layout)
    channels = torch.tensor(data.draw(st.lists(st.integers(0, sum(sizes) - 1), min_size=1, max_size=12)))
    c = len(channels)
    x = torch.cat(maps, 1)[:, channels]
    weight, bias, slope = torch.randn(5, c), torch.randn(5), torch.randn(5)
    constants = torch.randn(c, 11)
    torch.set_num_threads(threads)
    selected = kernels.select_channels(maps, channels)
    product = kernels.select_pointwise(maps, channels, weight, bias, slope)
    convolved, pooled = kernels.select_downsample(maps, channels, constants)
    expected = kernels.pointwise(x, weight, bias, slope)
    torch.set_num_threads(1)
    assert torch.equal(selected, x)
    assert torch.equal(product, expected)
    filters, bias, slope = constants[:, :9].view(c, 1, 3, 3), constants[:, 9], constants[:, 10]
    double = F.conv2d(x.double(), filters.double(), bias.double(), stride=2, padding=1, groups=c)
    double = torch.where(double > 0, double, slope.double()[:, None, None] * double)
    assert convolved.dtype == pooled.dtype == dtype
    assert_close(convolved, double, TOLERANCE[dtype])
    assert_close(pooled, F.avg_pool2d(x.double(), 3, 2, 1), TOLERANCE[dtype])


def test_channels_that_are_not_there_are_refused() -> None:
    maps = [torch.randn(2, 3, 5, 6), torch.randn(2, 4, 5, 6)]
    constants = torch.randn(7, 2), torch.randn(7), torch.randn(7)
    for numbers in ([0, 7], [-1, 2]):
        channels = torch.tensor(numbers)
        for call in (
            lambda c=channels: kernels.select_channels(maps, c),
            lambda c=channels: kernels.select_pointwise(maps, c, *constants),
            lambda c=channels: kernels.select_downsample(maps, c, torch.randn(2, 11)),
        ):
            with pytest.raises(ValueError, match="from 0 to 6"):
                call()
    for bad, channels in (
        ([], torch.tensor([0])),
        (maps, torch.tensor([0.0])),
        (maps, torch.tensor([], dtype=torch.int64)),
        (maps, torch.tensor([[0, 1]])),
        ([maps[0], maps[1][:1]], torch.tensor([0])),
        ([maps[0], maps[1][:, :, :4]], torch.tensor([0])),
        ([maps[0], maps[1].half()], torch.tensor([0])),
        ([maps[0], maps[1][0]], torch.tensor([0])),
        ([m.double() for m in maps], torch.tensor([0])),
    ):
        with pytest.raises((ValueError, NotImplementedError), match="dicenas"):
            kernels.select_channels(bad, channels)
    with pytest.raises(ValueError, match="weight"):
        kernels.select_pointwise(maps, torch.tensor([0, 1, 2]), *constants)
    with pytest.raises(ValueError, match="constants"):
        kernels.select_downsample(maps, torch.tensor([0, 1, 2]), torch.randn(2, 11))


def test_operators_are_well_defined() -> None:
    tensors = arguments((2, 4, 5, 6))
    local, spatial = torch.randn(4, 14), torch.randn(4, 11)
    weight, bias, slope = torch.randn(7, 4), torch.randn(7), torch.randn(7)
    torch.library.opcheck(torch.ops.dicenas.dim_conv_local.default, (*tensors, local))
    gate = (torch.randn(2, 4), torch.randn(4, 2))
    torch.library.opcheck(torch.ops.dicenas.dice_unit.default, (*tensors, local, spatial, *gate))
    torch.library.opcheck(torch.ops.dicenas.pointwise.default, (tensors[0], weight, bias, slope))
    maps, channels = [tensors[0], tensors[0][:, :2]], torch.tensor([5, 0, 2, 3])
    torch.library.opcheck(torch.ops.dicenas.select_channels.default, (maps, channels))
    torch.library.opcheck(torch.ops.dicenas.select_pointwise.default, (maps, channels, weight, bias, slope))
    torch.library.opcheck(torch.ops.dicenas.select_downsample.default, (maps, channels, spatial))


def test_bad_arguments_are_refused() -> None:
    tensors = arguments((2, 4, 5, 6))
    local, spatial, reduce, expand = torch.randn(4, 14), torch.randn(4, 11), torch.randn(2, 4), torch.randn(4, 2)
    for bad, name in (
        ((local[:3], spatial, reduce, expand), "local"),
        ((local, spatial[:, :9], reduce, expand), "spatial"),
        ((local, spatial, reduce[:, :3], expand), "gate_reduce"),
        ((local, spatial, reduce[:0], expand), "gate_reduce"),
        ((local, spatial, reduce, expand.t()), "gate_expand"),
    ):
        with pytest.raises(ValueError, match=name):
            kernels.dice_unit(*tensors, *bad)
    with pytest.raises(ValueError, match="weight"):
        kernels.pointwise(tensors[0], torch.randn(7, 5), torch.randn(7), torch.randn(7))
    with pytest.raises(ValueError, match="slope"):
        kernels.pointwise(tensors[0], torch.randn(7, 4), torch.randn(7), torch.randn(6))
