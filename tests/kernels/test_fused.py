"""The fused inference kernels of the CPU against standard operators in double precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

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


def test_operators_are_well_defined() -> None:
    tensors = arguments((2, 4, 5, 6))
    local, spatial = torch.randn(4, 14), torch.randn(4, 11)
    weight, bias, slope = torch.randn(7, 4), torch.randn(7), torch.randn(7)
    torch.library.opcheck(torch.ops.dicenas.dim_conv_local.default, (*tensors, local))
    gate = (torch.randn(2, 4), torch.randn(4, 2))
    torch.library.opcheck(torch.ops.dicenas.dice_unit.default, (*tensors, local, spatial, *gate))
    torch.library.opcheck(torch.ops.dicenas.pointwise.default, (tensors[0], weight, bias, slope))


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
