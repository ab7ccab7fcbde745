"""Calls into the CPU library."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from dicenas.ops.kernels.library import load_library

__all__ = [
    "DTYPES",
    "check",
    "dice_unit",
    "dim_conv",
    "dim_conv_backward",
    "dim_conv_local",
    "library",
    "pointwise",
    "select_channels",
    "select_downsample",
]

#: Data types of the kernels and their numbers in the C interface.
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}

_POINTER = ctypes.c_void_p


class _Map(ctypes.Structure):
    _fields_ = (("data", _POINTER), *((name, ctypes.c_int64) for name in ("c", "stride_n", "stride_c")))


class _Selection(ctypes.Structure):
    _fields_ = (
        ("maps", ctypes.POINTER(_Map)),
        ("map_count", ctypes.c_int64),
        ("channels", _POINTER),
        *((name, ctypes.c_int64) for name in ("n", "c", "size")),
    )


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
    handle.dicenas_select_channels.argtypes = [*[_POINTER] * 2, *[ctypes.c_int] * 2]
    handle.dicenas_pointwise.argtypes = [*[_POINTER] * 5, ctypes.c_int64, *[ctypes.c_int] * 2]
    handle.dicenas_downsample.argtypes = [_POINTER, *[ctypes.c_int64] * 2, *[_POINTER] * 3, *[ctypes.c_int] * 2]
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


def _select(function: str, maps: Sequence[Tensor], channels: Tensor | None, *arguments: int) -> None:
    """Call a function of the library on all channels of the only map, or on those that ``channels`` counts through."""
    n, c, h, w = maps[0].shape
    maps = [m if m.stride(3) == 1 and m.stride(2) == w else m.contiguous() for m in maps]
    described = (_Map * len(maps))(*(_Map(m.data_ptr(), m.shape[1], m.stride(0), m.stride(1)) for m in maps))
    if channels is not None:
        c, channels = len(channels), channels.contiguous()
    numbers = None if channels is None else channels.data_ptr()
    selection = _Selection(described, len(maps), numbers, n, c, h * w)
    run = getattr(library(), function)
    status = run(ctypes.byref(selection), *arguments, DTYPES[maps[0].dtype], torch.get_num_threads())
    if status and channels is not None:  # all else is checked by the operators
        count = sum(m.shape[1] for m in maps)
        raise ValueError(f"{function}: channels should be numbers from 0 to {count - 1}, got {channels.tolist()}")
    check(status)


def select_channels(maps: Sequence[Tensor], channels: Tensor) -> Tensor:
    """Run ``dicenas::select_channels``."""
    n, _, h, w = maps[0].shape
    out = maps[0].new_empty((n, len(channels), h, w))
    _select("dicenas_select_channels", maps, channels, out.data_ptr())
    return out


def pointwise(maps: Sequence[Tensor], channels: Tensor | None, weight: Tensor, bias: Tensor, slope: Tensor) -> Tensor:
    """Run ``dicenas::pointwise``, of one map whose channels may be a slice, or ``dicenas::select_pointwise``."""
    n, _, h, w = maps[0].shape
    out = maps[0].new_empty((n, weight.shape[0], h, w))
    constants = [_constant(t) for t in (weight, bias, slope)]
    pointers = [t.data_ptr() for t in (*constants, out)]
    _select("dicenas_pointwise", maps, channels, *pointers, len(weight))
    return out


def select_downsample(maps: Sequence[Tensor], channels: Tensor, constants: Tensor) -> tuple[Tensor, Tensor]:
    """Run ``dicenas::select_downsample``."""
    n, _, h, w = maps[0].shape
    constants = _constant(constants)
    convolved, pooled = (maps[0].new_empty((n, len(channels), (h + 1) // 2, (w + 1) // 2)) for _ in range(2))
    pointers = constants.data_ptr(), convolved.data_ptr(), pooled.data_ptr()
    _select("dicenas_downsample", maps, channels, h, w, *pointers)
    return convolved, pooled
