"""How the operators of training are differentiated, and the same kernels as functions of autograd.

An operator of torch.library is seen by compilers, dispatch modes and all else that asks the dispatcher, and crosses it
twice forward and twice backward: on a small map that takes longer than the kernel. Where nobody looks, the functions
here call the kernels directly. :func:`dice_unit_step` is the whole DiCE unit in one such function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.autograd.profiler
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from dicenas.ops.kernels import cpu, definitions, training

__all__ = [
    "depthwise_norm_act",
    "depthwise_norm_act_reference",
    "dice_unit_reference",
    "dice_unit_step",
    "direct",
    "local_fusion",
    "local_fusion_reference",
    "norm_act",
    "norm_act_reference",
]


def direct() -> bool:
    """Whether the kernels may be called past the dispatcher: no compiler traces and no dispatch mode is active."""
    return not torch.compiler.is_compiling() and not is_in_torch_dispatch_mode()


def norm_act_reference(x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor, eps: float) -> Tensor:
    """``dicenas::norm_act`` in standard operators."""
    return F.prelu(F.batch_norm(x, None, None, weight, bias, True, 0.0, eps), slope)


def depthwise_norm_act_reference(
    x: Tensor, filter: Tensor, weight: Tensor, bias: Tensor, slope: Tensor, gate: Tensor | None, eps: float
) -> Tensor:
    """``dicenas::depthwise_norm_act`` in standard operators."""
    x = F.conv2d(x, filter, padding=filter.shape[-1] // 2, groups=x.shape[1])
    x = norm_act_reference(x, weight, bias, slope, eps)
    return x if gate is None else x * gate[:, :, None, None]


def local_fusion_reference(
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
) -> tuple[Tensor, Tensor]:
    """``dicenas::local_fusion`` in standard operators."""
    x = norm_act_reference(x, weight, bias, slope, eps)
    x = (x.unflatten(1, (3, -1)) * fusion.t()[:, :, None, None]).sum(1)
    y = norm_act_reference(x, out_weight, out_bias, out_slope, out_eps)
    return y, y.mean((2, 3))


_Three = tuple[Tensor, Tensor, Tensor]


class _Unit(NamedTuple):
    """The tensors of the unit; weights of 1x1 convolutions are matrices."""

    filters: _Three
    norm: _Three
    fusion: Tensor
    out_norm: _Three
    reduce: Tensor
    expand: Tensor
    filter: Tensor
    spatial_norm: _Three

    @classmethod
    def of(cls, arguments: Sequence[Tensor]) -> _Unit:
        """Take them from the arguments of :func:`dice_unit_step`, in its order."""
        channel, width, height, w, b, s, fusion, out_w, out_b, out_s, reduce, expand, filter, last_w, last_b, last_s = (
            arguments
        )
        matrices = fusion.flatten(1), (out_w, out_b, out_s), reduce.flatten(1), expand.flatten(1)
        return cls((channel, width, height), (w, b, s), *matrices, filter, (last_w, last_b, last_s))


def dice_unit_reference(x: Tensor, *arguments: Any) -> Tensor:
    """:func:`dice_unit_step`'s output in standard operators."""
    from dicenas.ops.dim_conv import dim_conv_reference

    unit, (eps, out_eps, spatial_eps) = _Unit.of(arguments[:16]), arguments[16:]
    branches = dim_conv_reference(x, *unit.filters)
    y, means = local_fusion_reference(branches, *unit.norm, unit.fusion, *unit.out_norm, eps, out_eps)
    gate = torch.sigmoid(F.linear(F.relu(F.linear(means, unit.reduce)), unit.expand))
    return depthwise_norm_act_reference(y, unit.filter, *unit.spatial_norm, gate, spatial_eps)


def _dice_unit(x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    unit, (eps, out_eps, spatial_eps) = _Unit.of(arguments[:16]), arguments[16:]
    definitions.check_dim_conv(x, *unit.filters)
    branches = cpu.dim_conv(x, *unit.filters)
    fuse, convolve = training.implementations["local_fusion"], training.implementations["depthwise_norm_act"]
    fused, means, *statistics = fuse(branches, *unit.norm, unit.fusion, *unit.out_norm, eps, out_eps)
    hidden = F.linear(means, unit.reduce).relu_()
    gate = F.linear(hidden, unit.expand).sigmoid_()
    y, *spatial_statistics = convolve(fused, unit.filter, *unit.spatial_norm, gate, spatial_eps)
    return y, *statistics, *spatial_statistics, branches, fused, means, hidden, gate


def _dice_unit_backward(grad: Tensor, x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    unit, statistics, spatial_statistics = _Unit.of(arguments[:16]), arguments[16:20], arguments[20:22]
    branches, fused, means, hidden, gate, eps, out_eps, spatial_eps = arguments[22:]
    backward = training.implementations["depthwise_norm_act_backward"]
    grad, *spatial_grads, grad_gate = backward(
        grad, fused, unit.filter, *unit.spatial_norm, gate, *spatial_statistics, spatial_eps
    )
    grad_gate = grad_gate * gate * (1 - gate)
    grad_hidden = torch.mm(grad_gate, unit.expand) * (hidden > 0)
    grad_means = torch.mm(grad_hidden, unit.reduce)
    gate_grads = torch.mm(grad_hidden.t(), means), torch.mm(grad_gate.t(), hidden)
    backward = training.implementations["local_fusion_backward"]
    local = *unit.norm, unit.fusion, *unit.out_norm
    grad, *local_grads = backward(grad, grad_means, branches, *local, *statistics, eps, out_eps)
    grads = *cpu.dim_conv_backward(grad, x, *unit.filters, True, True), *local_grads, *gate_grads, *spatial_grads
    return tuple(g.view_as(t) for g, t in zip(grads, (x, *arguments[:16]), strict=True))


_Setup = Callable[[Any, tuple[Any, ...], tuple[Tensor, ...]], None]
_Gradient = Callable[..., tuple[Tensor | None, ...]]


def _formula(
    results: int, scalars: int, backward: Callable[..., Sequence[Tensor]], reference: Callable[..., Any]
) -> tuple[_Setup, _Gradient]:
    """The gradient of a function of tensors and, behind them, ``scalars``.

    Its first ``results`` outputs are differentiable, the others are kept for ``backward``.
    """

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        kept = output[results:]
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(results > 1)
        ctx.save_for_backward(*inputs[:-scalars], *kept)
        ctx.scalars = inputs[-scalars:]

    def gradient(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[:-scalars]
        if grads[0] is None:  # what follows has no gradient either
            return (None,) * (len(needed) + scalars)
        saved = ctx.saved_tensors
        if torch.is_grad_enabled():
            # create_graph=True: the reference's gradient can be differentiated again, the kernel's cannot.
            inputs = saved[: len(needed)]
            wanted = [t for t, need in zip(inputs, needed, strict=True) if need]
            outputs = reference(*inputs, *ctx.scalars)
            outputs = (outputs,) if results == 1 else outputs
            found = iter(torch.autograd.grad(outputs, wanted, grads[:results], create_graph=True))
            return *(next(found) if need else None for need in needed), *[None] * scalars
        values = backward(*grads[:results], *saved, *ctx.scalars)
        return *(v if need else None for v, need in zip(values, needed, strict=True)), *[None] * scalars

    return setup, gradient


def _recorded(name: str) -> AbstractContextManager[Any]:
    """Show a direct call in the profiles that are being taken, as the dispatcher shows operators."""
    taken = torch.autograd.profiler._is_profiler_enabled
    return torch.autograd.profiler.record_function(f"dicenas::{name}") if taken else nullcontext()


def _function(name: str, implementation: Callable[..., tuple[Tensor, ...]], formula: tuple[_Setup, _Gradient]) -> Any:
    setup, gradient = formula

    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        with _recorded(name):
            output = implementation(*inputs)
        setup(ctx, inputs, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(gradient)}
    function: Any = type(name, (torch.autograd.Function,), methods)
    return function.apply


def _differentiable(name: str, results: int, scalars: int, reference: Callable[..., Any]) -> Any:
    """Register the gradient of an operator; return the function that calls its kernels directly."""
    setup, gradient = _formula(results, scalars, getattr(training, f"{name}_backward"), reference)
    torch.library.register_autograd(f"dicenas::{name}", gradient, setup_context=setup, lib=training.library)
    formula = _formula(results, scalars, training.implementations[f"{name}_backward"], reference)
    return _function(name, training.implementations[name], formula)


norm_act = _differentiable("norm_act", 1, 1, norm_act_reference)
depthwise_norm_act = _differentiable("depthwise_norm_act", 1, 1, depthwise_norm_act_reference)
local_fusion = _differentiable("local_fusion", 2, 2, local_fusion_reference)
dice_unit_step = _function("dice_unit_step", _dice_unit, _formula(1, 3, _dice_unit_backward, dice_unit_reference))
