"""Dimension-wise convolution against its definition, written out as loops."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dicenas.ops import DimConv, dim_conv, dim_conv_reference
from dicenas.ops.dim_conv import resize_matrix


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map one axis at a time with torch's own operators: up by interpolation, down by pooling."""
    for axis in (0, 1):
        target = list(x.shape[2:])
        grows, target[axis] = size[axis] > target[axis], size[axis]
        if grows:
            x = F.interpolate(x, tuple(target), mode="bilinear", align_corners=True)
        else:
            x = F.adaptive_avg_pool2d(x, tuple(target))
    return x


def by_definition(
    x: Tensor, weight_channel: Tensor, weight_width: Tensor, weight_height: Tensor, dilation: tuple[int, int, int]
) -> Tensor:
    """``dim_conv`` as sums over single elements."""
    height, width = x.shape[2:]
    d_channel, d_width, d_height = dilation

    def branch(x: Tensor, weight: Tensor, dilation: int, filter_of: str) -> Tensor:
        n_, c_, h_, w_ = x.shape
        values, kernels, k = x.tolist(), weight[:, 0].tolist(), weight.shape[2]
        reach = (k - 1) // 2
        out = torch.zeros_like(x)
        for n, c, h, w in product(range(n_), range(c_), range(h_), range(w_)):
            total = 0.0
            for i, j in product(range(k), repeat=2):
                di, dj = (i - reach) * dilation, (j - reach) * dilation
                position = {"c": (c, h + di, w + dj), "h": (c + di, h, w + dj), "w": (c + dj, h + di, w)}[filter_of]
                if all(0 <= p < length for p, length in zip(position, (c_, h_, w_), strict=True)):
                    kernel = kernels[{"c": c, "h": h, "w": w}[filter_of]]
                    total += kernel[i][j] * values[n][position[0]][position[1]][position[2]]
            out[n, c, h, w] = total
        return out

    by_channel = branch(x, weight_channel, d_channel, "c")
    by_height = branch(resized(x, (weight_height.shape[0], width)), weight_height, d_height, "h")
    by_width = branch(resized(x, (height, weight_width.shape[0])), weight_width, d_width, "w")
    return torch.cat((by_channel, resized(by_height, (height, width)), resized(by_width, (height, width))), 1)


def random_arguments(
    shape: tuple[int, int, int, int], native: tuple[int, int], k: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Input and filters; channel-, width- and height-wise."""
    filters = (torch.randn(number, 1, k, k, dtype=dtype) for number in (shape[1], native[1], native[0]))
    return torch.randn(shape, dtype=dtype), *filters


side = st.integers(1, 5)


@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 4), side, side),
    native=st.none() | st.tuples(side, side),
    k=st.sampled_from((1, 3, 5)),
    dilation=st.tuples(*[st.integers(1, 3)] * 3),
)
def test_equals_definition(
    shape: tuple[int, int, int, int],
    native: tuple[int, int] | None,
    k: int,
    dilation: tuple[int, int, int],
) -> None:
    arguments = random_arguments(shape, native or shape[2:], k)
    out = dim_conv(*arguments, dilation)
    torch.testing.assert_close(out, by_definition(*arguments, dilation), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(dim_conv_reference(*arguments, dilation), out, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("native", [(3, 4), (5, 2), (2, 5)])
def test_gradients(native: tuple[int, int]) -> None:
    arguments = [value.requires_grad_() for value in random_arguments((2, 3, 3, 4), native, 3)]
    assert torch.autograd.gradcheck(lambda *values: dim_conv(*values, (1, 2, 1)), arguments)


# Resizing one axis


@given(source=st.integers(1, 70), target=st.integers(1, 70))
def test_resize_matrix_is_torch_s_resizing(source: int, target: int) -> None:
    x = torch.randn(1, 2, source, 3, dtype=torch.float64)
    expected = resized(x, (target, 3))
    matrix = resize_matrix(source, target, x)
    assert matrix.shape == (target, source)
    torch.testing.assert_close(matrix @ x, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(matrix.sum(1), torch.ones(target, dtype=torch.float64))


@pytest.mark.parametrize(("source", "target"), [(28, 55), (97, 112), (55, 28), (5, 5)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_resize_weights_are_rounded_once(source: int, target: int, dtype: torch.dtype) -> None:
    exact = resize_matrix(source, target, torch.empty(0, dtype=torch.float64))
    matrix = resize_matrix(source, target, torch.empty(0, dtype=dtype))
    assert matrix.dtype == dtype
    assert (matrix.double() - exact).abs().max() <= torch.finfo(dtype).eps


# Tensors of every kind


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("native", [(7, 6), (9, 5)])
def test_half_precision(dtype: torch.dtype, native: tuple[int, int]) -> None:
    exact = random_arguments((2, 8, 7, 6), native, 3)
    rounded = [value.to(dtype) for value in exact]
    out = dim_conv(*rounded)
    assert out.dtype == dtype
    expected = dim_conv(*(value.double() for value in rounded))
    # Nine products and two resizings, each rounded to 16 bits.
    tolerance = 8 * torch.finfo(dtype).eps * expected.abs().max()
    assert (out.double() - expected).abs().max() <= tolerance


def test_autocast() -> None:
    module = DimConv(8, size=(7, 6))
    x = torch.randn(2, 8, 9, 5)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
    torch.testing.assert_close(out.float(), module(x), rtol=0.1, atol=0.1)


def test_memory_formats() -> None:
    x, *filters = random_arguments((2, 8, 7, 6), (9, 5), 3)
    expected = dim_conv(x, *filters)
    wide = torch.zeros(2, 16, 7, 12, dtype=x.dtype)
    wide[:, ::2, :, ::2] = x
    for same in (x.contiguous(memory_format=torch.channels_last), wide[:, ::2, :, ::2]):
        assert not same.is_contiguous()
        torch.testing.assert_close(dim_conv(same, *filters), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("native", [(7, 6), (9, 5)])
def test_empty_batch(native: tuple[int, int]) -> None:
    module = DimConv(4, native)
    out = module(torch.empty(0, 4, 7, 6))
    assert out.shape == (0, 12, 7, 6)
    out.sum().backward()
    assert torch.equal(module.weight_height.grad, torch.zeros(native[0], 1, 3, 3))


@pytest.mark.parametrize("size", [(7, 6), (9, 5)])
def test_traces_without_a_break(size: tuple[int, int]) -> None:
    module = DimConv(4, size=(7, 6), dilation=(1, 2, 1))
    x = torch.randn(2, 4, *size)
    # Whether inductor's code is right is its own business; that there is one graph is ours.
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.parametrize("size", [(7, 6), (9, 5)])
def test_exports_with_a_free_batch(size: tuple[int, int]) -> None:
    module = DimConv(4, size=(7, 6)).eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(module, (torch.randn(2, 4, *size),), dynamic_shapes=({0: batch},))
    x = torch.randn(5, 4, *size)
    torch.testing.assert_close(program.module()(x), module(x))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(7, 6), (9, 5)])
def test_inductor(size: tuple[int, int]) -> None:
    module = DimConv(4, size=(7, 6))
    x = torch.randn(2, 4, *size, requires_grad=True)
    torch.compile(module, fullgraph=True)(x).square().sum().backward()
    compiled, x.grad = x.grad, None
    module(x).square().sum().backward()
    torch.testing.assert_close(compiled, x.grad)


# The module


def test_module_draws_filters_as_published() -> None:
    module = DimConv(92, size=(80, 100))
    for weight in module.parameters():
        expected = math.sqrt(2 / (9 * weight.shape[0]))
        assert weight.std().item() == pytest.approx(expected, rel=0.1)
        assert abs(weight.mean().item()) < expected / 5


def test_module_shows_its_arguments() -> None:
    shown = repr(DimConv(8, size=(7, 6), kernel_size=5, dilation=[1, 2, 3]))
    assert shown == "DimConv(8, size=(7, 6), kernel_size=5, dilation=(1, 2, 3))"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 4}, "kernel_size 4 is even"),
        ({"kernel_size": -1}, "at least 1"),
        ({"in_channels": 0}, "in_channels 0"),
        ({"size": (0, 3)}, r"size \(0, 3\)"),
        ({"size": (3, 0)}, r"size \(3, 0\)"),
        ({"dilation": (1, 0, 1)}, r"dilation \(1, 0, 1\)"),
        ({"dilation": (1, 1)}, r"dilation \(1, 1\) should be \(d_channel, d_width, d_height\)"),
    ],
)
def test_module_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DimConv(**({"in_channels": 4, "size": (3, 3)} | arguments))


def weights(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.zeros(shape) for shape in shapes]


@pytest.mark.parametrize(
    ("x", "filters", "dilation", "message"),
    [
        ((4, 3, 3), [(4, 1, 3, 3), (3, 1, 3, 3), (3, 1, 3, 3)], (1, 1, 1), r"\(N, C, H, W\), got shape \(4, 3, 3\)"),
        ((1, 4, 3, 3), [(5, 1, 3, 3), (3, 1, 3, 3), (3, 1, 3, 3)], (1, 1, 1), "5 channel-wise filters for 4 input"),
        ((1, 4, 3, 3), [(4, 1, 3), (3, 1, 3), (3, 1, 3)], (1, 1, 1), r"weight_channel has shape \(4, 1, 3\)"),
        ((1, 4, 3, 3), [(4, 1, 3, 3), (3, 1, 5, 5), (3, 1, 3, 3)], (1, 1, 1), "weight_width has shape"),
        ((1, 4, 3, 3), [(4, 1, 3, 3), (3, 1, 3, 3), (3, 1, 5, 5)], (1, 1, 1), "weight_height has shape"),
        ((1, 4, 3, 3), [(4, 2, 3, 3), (3, 2, 3, 3), (3, 2, 3, 3)], (1, 1, 1), r"expected \(filters, 1, k, k\)"),
        ((1, 4, 3, 3), [(4, 1, 3, 5), (3, 1, 3, 5), (3, 1, 3, 5)], (1, 1, 1), r"expected \(filters, 1, k, k\)"),
        ((1, 4, 3, 3), [(4, 1, 2, 2), (3, 1, 2, 2), (3, 1, 2, 2)], (1, 1, 1), "kernel size 2 is even"),
        ((1, 4, 3, 3), [(4, 1, 3, 3), (3, 1, 3, 3), (3, 1, 3, 3)], (1, 1), r"dilation \(1, 1\)"),
        ((1, 4, 3, 3), [(4, 1, 3, 3), (3, 1, 3, 3), (3, 1, 3, 3)], (1, 0, 1), r"dilation \(1, 0, 1\)"),
    ],
)
def test_function_refuses(
    x: tuple[int, ...], filters: list[tuple[int, ...]], dilation: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dim_conv(torch.zeros(x), *weights(*filters), dilation)
