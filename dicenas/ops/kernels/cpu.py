"""Calls into the CPU library."""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor

from dicenas.ops.kernels.library import load_library

__all__ = ["DTYPES", "check", "dice_unit", "dim_conv", "dim_conv_backward", "dim_conv_local", "library", "pointwise"]

#: Data types of the kernels and their numbers in the C interface.
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}

_POINTER = ctypes.c_void_p
_GEOMETRY = (*[ctypes.c_int64] * 10, *[ctypes.c_int] * 3)


@cache
def library() -> ctypes.CDLL:
    """Return the library, which the caller knows to be available."""
    found = load_library("cpu")
    if found.handle is None:
        raise RuntimeError(f"the CPU kernels are not available: {found.reason}")
    handle = found.handle
    handle.dicenas_dim_conv.argtypes = (*[_POINTER] * 5, *_GEOMETRY)
    handle.dicenas_dim_conv_backward.argtypes = (*[_POINTER] * 9, *_GEOMETRY)
    handle.dicenas_dim_conv_local.argtypes = (*[_POINTER] * 6, *_GEOMETRY)
    handle.dicenas_dice_unit.argtypes = (*[_POINTER] * 8, ctypes.c_int64, _POINTER, *_GEOMETRY)
    handle.dicenas_pointwise.argtypes = [*[_POINTER] * 5, *[ctypes.c_int64] * 6, *[ctypes.c_int] * 2]
    return handle


def _geometry(x: Tensor, width: Tensor, height: Tensor) -> tuple[int, ...]:
    native = height.shape[0], width.shape[0]
    return (*x.shape, *native, *x.stride(), width.shape[-1], DTYPES[x.dtype], torch.get_num_threads())


def _constant(weight: Tensor) -> Tensor:
    if weight.dtype == torch.float32 and weight.is_contiguous():
        return weight  # the usual case; the two calls below would cost a microsecond each
    return weight.float().contiguous()


def check(status: int) -> None:
    """Raise RuntimeError where a function of the library refused its arguments."""
    if status:
        raise RuntimeError(f"the CPU kernel refused its arguments with code {status}")


def dim_conv(x: Tensor, weight_channel: Tensor, weight_width: Tensor, weight_height: Tensor) -> Tensor:
    """Run ``dicenas::dim_conv``; the arguments are checked by the operator."""
    n, c, h, w = x.shape
    out = x.new_empty((n, 3 * c, h, w))
    channel, width, height = _constant(weight_channel), _constant(weight_width), _constant(weight_height)
    check(
        library().dicenas_dim_conv(
            x.data_ptr(), channel.data_ptr(), width.data_ptr(), height.data_ptr(), out.data_ptr(),
            *_geometry(x, width, height),
        )
    )  # fmt: skip
    return out


def dim_conv_backward(
    grad: Tensor,
    x: Tensor,
    weight_channel: Tensor,
    weight_width: Tensor,
    weight_height: Tensor,
    input_grad: bool,
    weight_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run ``dicenas::dim_conv_backward``; gradients that are not wanted come back empty."""
    grad = grad.contiguous()
    weights = [_constant(weight) for weight in (weight_channel, weight_width, weight_height)]
    grad_x = x.new_empty(x.shape if input_grad else 0)
    grads = [weight.new_empty(weight.shape if weight_grad else 0) for weight in weights]  # float32, as these are
    check(
        library().dicenas_dim_conv_backward(
            grad.data_ptr(), x.data_ptr(), *(weight.data_ptr() for weight in weights),
            grad_x.data_ptr() if input_grad else None,
            *(g.data_ptr() if weight_grad else None for g in grads),
            *_geometry(x, *weights[1:]),
        )
    )  # fmt: skip
    channel, width, height = (g.to(weight_channel.dtype) for g in grads)
    return grad_x, channel, width, height


def dim_conv_local(
    x: Tensor, weight_channel: Tensor, weight_width: Tensor, weight_height: Tensor, local: Tensor
) -> Tensor:
    """Run ``dicenas::dim_conv_local``: the first half of the unit, folded."""
    out = x.new_empty(x.shape)
    channel, width, height = _constant(weight_channel), _constant(weight_width), _constant(weight_height)
    local = _constant(local)
    check(
        library().dicenas_dim_conv_local(
            x.data_ptr(), channel.data_ptr(), width.data_ptr(), height.data_ptr(), local.data_ptr(), out.data_ptr(),
            *_geometry(x, width, height),
        )
    )  # fmt: skip
    return out


def dice_unit(
    x: Tensor,
    weight_channel: Tensor,
    weight_width: Tensor,
    weight_height: Tensor,
    local: Tensor,
    spatial: Tensor,
    gate_reduce: Tensor,
    gate_expand: Tensor,
) -> Tensor:
    """Run ``dicenas::dice_unit``: the whole unit, folded."""
    out = x.new_empty(x.shape)
    channel, width, height = _constant(weight_channel), _constant(weight_width), _constant(weight_height)
    constants = [_constant(t) for t in (local, spatial, gate_reduce, gate_expand)]
    check(
        library().dicenas_dice_unit(
            x.data_ptr(), channel.data_ptr(), width.data_ptr(), height.data_ptr(),
            *(t.data_ptr() for t in constants), gate_reduce.shape[0], out.data_ptr(), *_geometry(x, width, height),
        )
    )  # fmt: skip
    return out


def pointwise(x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor) -> Tensor:
    """Run ``dicenas::pointwise``; channels may be a slice of a larger map."""
    n, c, h, w = x.shape
    if x.stride(3) != 1 or x.stride(2) != w:
        x = x.contiguous()
    out = x.new_empty((n, weight.shape[0], h, w))
    constants = [_constant(t) for t in (weight, bias, slope)]
    check(
        library().dicenas_pointwise(
            x.data_ptr(), *(t.data_ptr() for t in constants), out.data_ptr(), n, c, weight.shape[0], h * w,
            x.stride(0), x.stride(1), DTYPES[x.dtype], torch.get_num_threads(),
        )
    )  # fmt: skip
    return out
