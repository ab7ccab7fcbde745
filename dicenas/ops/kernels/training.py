"""The operators of training on the CPU: normalisation with what stands before and behind it, fused.

``dicenas::norm_act`` is batch normalisation with PReLU, ``dicenas::depthwise_norm_act`` has a depth-wise convolution
before it and a gate behind it, ``dicenas::local_fusion`` is what the DiCE unit does between dimension-wise convolution
and global fusion. They return the statistics of the batch, from which the caller updates the running ones, keep their
inputs only for the backward pass and are deterministic.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from dicenas.ops.kernels import cpu

__all__ = ["DTYPES", "implementations", "library", "operators"]

#: Data types of these kernels and their numbers in the C interface.
DTYPES = {torch.float32: 0, torch.float64: 3}

library = torch.library.Library("dicenas", "FRAGMENT")
_NORM = "Tensor weight, Tensor bias, Tensor slope"
_OUT_NORM = "Tensor out_weight, Tensor out_bias, Tensor out_slope"
for _schema in (
    f"norm_act(Tensor x, {_NORM}, float eps) -> (Tensor y, Tensor mean, Tensor var)",
    f"norm_act_backward(Tensor grad, Tensor x, {_NORM}, Tensor mean, Tensor var, float eps)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    f"depthwise_norm_act(Tensor x, Tensor filter, {_NORM}, Tensor? gate, float eps)"
    " -> (Tensor y, Tensor mean, Tensor var)",
    f"depthwise_norm_act_backward(Tensor grad, Tensor x, Tensor filter, {_NORM}, Tensor? gate, Tensor mean,"
    " Tensor var, float eps) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    f"local_fusion(Tensor x, {_NORM}, Tensor fusion, {_OUT_NORM}, float eps, float out_eps)"
    " -> (Tensor y, Tensor pooled, Tensor mean, Tensor var, Tensor out_mean, Tensor out_var)",
    f"local_fusion_backward(Tensor grad, Tensor grad_pooled, Tensor x, {_NORM}, Tensor fusion, {_OUT_NORM},"
    " Tensor mean, Tensor var, Tensor out_mean, Tensor out_var, float eps, float out_eps)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
):
    library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))

_POINTER = ctypes.c_void_p


class _Norm(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("weight", "bias", "slope", "mean", "var")),
        *((name, _POINTER) for name in ("grad_weight", "grad_bias", "grad_slope")),
        ("eps", ctypes.c_double),
    )


class _Training(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in "nchw"),
        *((name, ctypes.c_int) for name in ("kernel_size", "dtype", "threads")),
        *((name, _POINTER) for name in ("x", "y", "grad", "grad_x")),
        ("norm", _Norm),
        ("out_norm", _Norm),
        *((name, _POINTER) for name in ("fusion", "grad_fusion", "pooled")),
        *((name, _POINTER) for name in ("filter", "grad_filter", "gate", "grad_gate")),
    )


def _norm(constants: Sequence[Tensor], mean: Tensor, var: Tensor, eps: float, grads: Sequence[Tensor] = ()) -> _Norm:
    pointers = [t.data_ptr() for t in (*constants, mean, var, *grads)]
    return _Norm(*pointers, *[None] * (8 - len(pointers)), eps)


def _run(name: str, like: Tensor, shape: Sequence[int], kernel_size: int = 3, /, **arguments: Any) -> None:
    """Call the library's function; ``arguments`` are tensors, normalisations, or ``None``."""
    values = {k: v.data_ptr() if isinstance(v, Tensor) else v for k, v in arguments.items()}
    problem = _Training(*shape, kernel_size, DTYPES[like.dtype], torch.get_num_threads(), **values)
    cpu.check(getattr(cpu.library(), f"dicenas_{name}")(ctypes.byref(problem)))


def _contiguous(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.contiguous() for t in tensors)


def _check(name: str, x: Tensor, branches: int = 1, /, **constants: tuple[Tensor, Sequence[int]]) -> None:
    """Raise ValueError unless the kernel can take these arguments: nothing is read before."""
    if x.dim() != 4 or x.dtype not in DTYPES:
        raise ValueError(f"dicenas::{name} takes float32 or float64 (N, C, H, W), got {x.dtype} {tuple(x.shape)}")
    n, c, h, w = x.shape
    if c < 1 or c % branches or n * h * w < 2:
        raise ValueError(f"dicenas::{name}: a channel of shape {tuple(x.shape)} needs more than one value")
    for constant, (value, shape) in constants.items():
        if tuple(value.shape) != tuple(shape) or value.dtype != x.dtype or value.device != x.device:
            raise ValueError(
                f"dicenas::{name}: {constant} is {value.dtype} {tuple(value.shape)} on {value.device}, expected "
                f"{x.dtype} {tuple(shape)} on {x.device}"
            )


def _per_channel(c: int, prefix: str = "", **constants: Tensor) -> dict[str, tuple[Tensor, Sequence[int]]]:
    return {prefix + name: (value, (c,)) for name, value in constants.items()}


def _filter_shape(x: Tensor, filter: Tensor) -> tuple[int, ...]:
    size = filter.shape[-1] if filter.dim() == 4 else 0
    if size not in (3, 5):
        raise ValueError(f"dicenas::depthwise_norm_act has kernels of size 3 and 5, got filters {tuple(filter.shape)}")
    return (x.shape[1], 1, size, size)


def _norm_act(x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor, eps: float) -> tuple[Tensor, ...]:
    c = x.shape[1] if x.dim() == 4 else 0
    _check("norm_act", x, **_per_channel(c, weight=weight, bias=bias, slope=slope))
    x, *norm = _contiguous(x, weight, bias, slope)
    y, mean, var = torch.empty_like(x), x.new_empty(c), x.new_empty(c)
    _run("norm_act", x, x.shape, x=x, y=y, norm=_norm(norm, mean, var, eps))
    return y, mean, var


def _norm_act_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, ...]:
    c = x.shape[1] if x.dim() == 4 else 0
    constants = _per_channel(c, weight=weight, bias=bias, slope=slope, mean=mean, var=var)
    _check("norm_act_backward", x, grad=(grad, x.shape), **constants)
    grad, x, *norm, mean, var = _contiguous(grad, x, weight, bias, slope, mean, var)
    grad_x, *grads = torch.empty_like(x), *(torch.empty_like(t) for t in norm)
    _run("norm_act_backward", x, x.shape, x=x, grad=grad, grad_x=grad_x, norm=_norm(norm, mean, var, eps, grads))
    return grad_x, *grads


def _gated(x: Tensor, gate: Tensor | None) -> dict[str, tuple[Tensor, Sequence[int]]]:
    return {} if gate is None else {"gate": (gate, x.shape[:2])}


def _depthwise_norm_act(
    x: Tensor, filter: Tensor, weight: Tensor, bias: Tensor, slope: Tensor, gate: Tensor | None, eps: float
) -> tuple[Tensor, ...]:
    c = x.shape[1] if x.dim() == 4 else 0
    constants = _per_channel(c, weight=weight, bias=bias, slope=slope)
    _check("depthwise_norm_act", x, filter=(filter, _filter_shape(x, filter)), **constants, **_gated(x, gate))
    x, filter, *norm = _contiguous(x, filter, weight, bias, slope)
    gate = None if gate is None else gate.contiguous()
    y, mean, var = torch.empty_like(x), x.new_empty(c), x.new_empty(c)
    arguments = {"filter": filter, "gate": gate, "norm": _norm(norm, mean, var, eps)}
    _run("depthwise_norm_act", x, x.shape, filter.shape[-1], x=x, y=y, **arguments)
    return y, mean, var


def _depthwise_norm_act_backward(
    grad: Tensor,
    x: Tensor,
    filter: Tensor,
    weight: Tensor,
    bias: Tensor,
    slope: Tensor,
    gate: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
) -> tuple[Tensor, ...]:
    c = x.shape[1] if x.dim() == 4 else 0
    constants = _per_channel(c, weight=weight, bias=bias, slope=slope, mean=mean, var=var)
    filters = (filter, _filter_shape(x, filter))
    _check("depthwise_norm_act_backward", x, grad=(grad, x.shape), filter=filters, **constants, **_gated(x, gate))
    grad, x, filter, *norm, mean, var = _contiguous(grad, x, filter, weight, bias, slope, mean, var)
    gate = None if gate is None else gate.contiguous()
    grad_x, grad_filter, *grads = (torch.empty_like(t) for t in (x, filter, *norm))
    grad_gate = x.new_empty(0) if gate is None else torch.empty_like(gate)
    arguments = {"filter": filter, "gate": gate, "norm": _norm(norm, mean, var, eps, grads)}
    arguments |= {"grad_x": grad_x, "grad_filter": grad_filter, "grad_gate": grad_gate}
    _run("depthwise_norm_act_backward", x, x.shape, filter.shape[-1], x=x, grad=grad, **arguments)
    return grad_x, grad_filter, *grads, grad_gate


def _local_fusion(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    slope: Tensor,
    fusion: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    out_slope: Tensor,
    eps: float,
    out_eps: float,
) -> tuple[Tensor, ...]:
    n, channels, h, w = x.shape if x.dim() == 4 else (0, 0, 0, 0)
    c = channels // 3
    inner = _per_channel(3 * c, weight=weight, bias=bias, slope=slope)
    outer = _per_channel(c, out_weight=out_weight, out_bias=out_bias, out_slope=out_slope)
    _check("local_fusion", x, 3, fusion=(fusion, (c, 3)), **inner, **outer)
    x, fusion, *norm = _contiguous(x, fusion, weight, bias, slope)
    out_norm = _contiguous(out_weight, out_bias, out_slope)
    y, pooled = x.new_empty((n, c, h, w)), x.new_empty((n, c))
    mean, var, out_mean, out_var = (x.new_empty(size) for size in (3 * c, 3 * c, c, c))
    norms = {"norm": _norm(norm, mean, var, eps), "out_norm": _norm(out_norm, out_mean, out_var, out_eps)}
    _run("local_fusion", x, y.shape, x=x, y=y, fusion=fusion, pooled=pooled, **norms)
    return y, pooled, mean, var, out_mean, out_var


def _local_fusion_backward(
    grad: Tensor,
    grad_pooled: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    slope: Tensor,
    fusion: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    out_slope: Tensor,
    mean: Tensor,
    var: Tensor,
    out_mean: Tensor,
    out_var: Tensor,
    eps: float,
    out_eps: float,
) -> tuple[Tensor, ...]:
    n, channels, h, w = x.shape if x.dim() == 4 else (0, 0, 0, 0)
    c = channels // 3
    inner = _per_channel(3 * c, weight=weight, bias=bias, slope=slope, mean=mean, var=var)
    outer = _per_channel(c, "out_", weight=out_weight, bias=out_bias, slope=out_slope, mean=out_mean, var=out_var)
    given = {"fusion": (fusion, (c, 3)), "grad": (grad, (n, c, h, w)), "grad_pooled": (grad_pooled, (n, c))}
    _check("local_fusion_backward", x, 3, **given, **inner, **outer)
    grad, grad_pooled, x, fusion = _contiguous(grad, grad_pooled, x, fusion)
    *norm, mean, var = _contiguous(weight, bias, slope, mean, var)
    *out_norm, out_mean, out_var = _contiguous(out_weight, out_bias, out_slope, out_mean, out_var)
    grad_x, grad_fusion, *grads = (torch.empty_like(t) for t in (x, fusion, *norm))
    out_grads = [torch.empty_like(t) for t in out_norm]
    arguments: dict[str, Any] = {"grad": grad, "pooled": grad_pooled, "grad_x": grad_x, "grad_fusion": grad_fusion}
    arguments["norm"] = _norm(norm, mean, var, eps, grads)
    arguments["out_norm"] = _norm(out_norm, out_mean, out_var, out_eps, out_grads)
    _run("local_fusion_backward", x, grad.shape, x=x, fusion=fusion, **arguments)
    return grad_x, *grads, grad_fusion, *out_grads


def _like(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in tensors)


def _fake_norm_act(x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return x.new_empty(x.shape), x.new_empty(x.shape[1]), x.new_empty(x.shape[1])


def _fake_depthwise_backward(grad: Tensor, *tensors: Any) -> tuple[Tensor, ...]:
    x, filter, weight, bias, slope, gate = tensors[:6]
    return *_like(x, filter, weight, bias, slope), x.new_empty(0 if gate is None else gate.shape)


def _fake_local_fusion(x: Tensor, weight: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    n, channels, h, w = x.shape
    c = channels // 3
    shapes = ((n, c, h, w), (n, c), (channels,), (channels,), (c,), (c,))
    return tuple(x.new_empty(shape) for shape in shapes)


#: What the operators run on the CPU.
implementations: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "norm_act": _norm_act,
    "norm_act_backward": _norm_act_backward,
    "depthwise_norm_act": _depthwise_norm_act,
    "depthwise_norm_act_backward": _depthwise_norm_act_backward,
    "local_fusion": _local_fusion,
    "local_fusion_backward": _local_fusion_backward,
}
_fakes: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "norm_act": _fake_norm_act,
    "norm_act_backward": lambda grad, *t: _like(*t[:4]),
    "depthwise_norm_act": _fake_norm_act,
    "depthwise_norm_act_backward": _fake_depthwise_backward,
    "local_fusion": _fake_local_fusion,
    "local_fusion_backward": lambda grad, grad_pooled, *t: _like(*t[:8]),
}
#: The operators, by the same names.
operators: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    name: getattr(torch.ops.dicenas, name).default for name in implementations
}
for _name, _implementation in implementations.items():
    library.impl(_name, _implementation, "CPU")
    torch.library.register_fake(f"dicenas::{_name}", _fakes[_name], lib=library)


def _depthwise_flops(x_shape: Sequence[int], filter_shape: Sequence[int], *args: Any, **kwargs: Any) -> int:
    n, c, h, w = x_shape
    return 2 * n * c * h * w * filter_shape[-1] ** 2


def _local_flops(x_shape: Sequence[int], *args: Any, **kwargs: Any) -> int:
    n, channels, h, w = x_shape
    return 2 * n * channels * h * w


register_flop_formula(torch.ops.dicenas.depthwise_norm_act)(_depthwise_flops)
register_flop_formula(torch.ops.dicenas.depthwise_norm_act_backward)(
    lambda grad_shape, *shapes, **kwargs: 2 * _depthwise_flops(*shapes)
)
register_flop_formula(torch.ops.dicenas.local_fusion)(_local_flops)
register_flop_formula(torch.ops.dicenas.local_fusion_backward)(
    lambda grad_shape, pooled_shape, *shapes, **kwargs: 2 * _local_flops(*shapes)
)
