"""The DiCE unit in training as one function of autograd, from dimension-wise convolution to the gate."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dicenas.ops.kernels import cpu, definitions, training
from dicenas.ops.kernels.gradients import (
    as_function,
    depthwise_norm_act_reference,
    differentiate_again,
    direct,
    local_fusion_reference,
)

__all__ = ["dice_unit_reference", "dice_unit_step"]

_Three = tuple[Tensor, Tensor, Tensor]
_SCALARS = 3  # the last arguments: eps of each normalisation


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
    def of(cls, tensors: Sequence[Tensor]) -> _Unit:
        """Take them from the arguments of :func:`dice_unit_step` behind the input, in its order."""
        channel, width, height, w, b, s, fusion, out_w, out_b, out_s, reduce, expand, filter, last_w, last_b, last_s = (
            tensors
        )
        matrices = fusion.flatten(1), (out_w, out_b, out_s), reduce.flatten(1), expand.flatten(1)
        return cls((channel, width, height), (w, b, s), *matrices, filter, (last_w, last_b, last_s))


class _Kept(NamedTuple):
    """What the forward pass keeps for the backward pass: statistics and maps."""

    mean: Tensor
    var: Tensor
    out_mean: Tensor
    out_var: Tensor
    spatial_mean: Tensor
    spatial_var: Tensor
    branches: Tensor
    fused: Tensor
    means: Tensor
    hidden: Tensor
    gate: Tensor


def dice_unit_reference(x: Tensor, *arguments: Any) -> Tensor:
    """:func:`dice_unit_step`'s output in standard operators."""
    from dicenas.ops.dim_conv import dim_conv_reference

    unit, (eps, out_eps, spatial_eps) = _Unit.of(arguments[:-_SCALARS]), arguments[-_SCALARS:]
    branches = dim_conv_reference(x, *unit.filters)
    y, means = local_fusion_reference(branches, *unit.norm, unit.fusion, *unit.out_norm, eps, out_eps)
    gate = torch.sigmoid(F.linear(F.relu(F.linear(means, unit.reduce)), unit.expand))
    return depthwise_norm_act_reference(y, unit.filter, *unit.spatial_norm, gate, spatial_eps)


def _forward(ctx: Any, x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    tensors, scalars = arguments[:-_SCALARS], arguments[-_SCALARS:]
    unit, (eps, out_eps, spatial_eps) = _Unit.of(tensors), scalars
    definitions.check_dim_conv(x, *unit.filters)
    branches = cpu.dim_conv(x, *unit.filters)
    fuse, convolve = training.implementations["local_fusion"], training.implementations["depthwise_norm_act"]
    fused, means, mean, var, out_mean, out_var = fuse(branches, *unit.norm, unit.fusion, *unit.out_norm, eps, out_eps)
    hidden = F.linear(means, unit.reduce).relu_()
    gate = F.linear(hidden, unit.expand).sigmoid_()
    y, spatial_mean, spatial_var = convolve(fused, unit.filter, *unit.spatial_norm, gate, spatial_eps)
    kept = _Kept(mean, var, out_mean, out_var, spatial_mean, spatial_var, branches, fused, means, hidden, gate)
    ctx.mark_non_differentiable(*kept)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, *tensors, *kept)
    ctx.scalars = scalars
    return y, *kept


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad[:-_SCALARS]
    nothing = (None,) * _SCALARS
    if grad is None:  # what follows has no gradient either
        return (None,) * len(needed) + nothing
    saved = ctx.saved_tensors
    x, tensors, kept = saved[0], saved[1 : len(needed)], _Kept(*saved[len(needed) :])
    if torch.is_grad_enabled():
        inputs = (x, *tensors, *ctx.scalars)
        return *differentiate_again(dice_unit_reference, inputs, needed, [grad]), *nothing
    # The gate's products are to have the type of all else where autocast is on around the backward pass.
    autocast = torch.is_autocast_enabled("cpu")
    with torch.autocast("cpu", enabled=False) if autocast else nullcontext():
        grads = _gradients(grad, x, _Unit.of(tensors), kept, ctx.scalars, needed)
    given = zip(grads, (x, *tensors), needed, strict=True)
    return *(g.view_as(t) if g is not None and need else None for g, t, need in given), *nothing


def _gradients(
    grad: Tensor, x: Tensor, unit: _Unit, kept: _Kept, scalars: Sequence[float], needed: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of the input and of the tensors, from the last to the first that needs one."""
    eps, out_eps, spatial_eps = scalars
    past = direct(
        grad, x, *unit.filters, *unit.norm, unit.fusion, *unit.out_norm, unit.filter, *unit.spatial_norm, *kept
    )
    run = training.implementations if past else training.operators
    filter_and_norm = unit.filter, *unit.spatial_norm
    grad_fused, *spatial_grads, grad_gate = run["depthwise_norm_act_backward"](
        grad, kept.fused, *filter_and_norm, kept.gate, kept.spatial_mean, kept.spatial_var, spatial_eps
    )
    grad_gate = grad_gate * kept.gate * (1 - kept.gate)
    grad_hidden = torch.mm(grad_gate, unit.expand) * (kept.hidden > 0)
    gate_grads = torch.mm(grad_hidden.t(), kept.means), torch.mm(grad_gate.t(), kept.hidden)
    grads: list[Tensor | None] = [*gate_grads, *spatial_grads]
    if not any(needed[:-6]):
        return [None] * (len(needed) - 6) + grads
    local = *unit.norm, unit.fusion, *unit.out_norm
    statistics = kept.mean, kept.var, kept.out_mean, kept.out_var
    grad_branches, *local_grads = run["local_fusion_backward"](
        grad_fused, torch.mm(grad_hidden, unit.reduce), kept.branches, *local, *statistics, eps, out_eps
    )
    grads = [*local_grads, *grads]
    if not any(needed[:4]):
        return [None] * 4 + grads
    wanted = needed[0], any(needed[1:4])
    if not past:
        return [*definitions.dim_conv_backward(grad_branches, x, *unit.filters, *wanted), *grads]
    definitions.check_dim_conv(x, *unit.filters)
    definitions.check_grad(grad_branches, x)
    return [*cpu.dim_conv_backward(grad_branches, x, *unit.filters, *wanted), *grads]


dice_unit_step = as_function("dice_unit_step", _forward, _backward)
