"""The gradients of the operators of training, and their kernels as functions of autograd.

Importing this registers how the operators of :mod:`dicenas.ops.kernels.training` are differentiated. An operator is
seen by compilers, dispatch modes and all else that asks the dispatcher, and crosses it twice forward and backward: on a
small map that takes longer than the kernel. Where nobody looks, the functions here call the kernels themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dicenas.ops.kernels import training

__all__ = [
    "as_function",
    "depthwise_norm_act",
    "depthwise_norm_act_reference",
    "differentiate_again",
    "direct",
    "local_fusion",
    "local_fusion_reference",
    "norm_act",
    "norm_act_reference",
]


def direct(*tensors: Tensor | None) -> bool:
    """Whether kernels may take these tensors past the dispatcher.

    Not where a compiler traces, a dispatch mode watches or a transformation of torch.func is at work, nor where one is
    more or less than plain memory, as subclasses are, batches of vmap, and tensors of zeros that nobody stored.
    """
    return (
        not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._are_functorch_transforms_active()
        and all(t is None or _is_plain_memory(t) for t in tensors)
    )


def _is_plain_memory(t: Tensor) -> bool:
    plain = type(t) in (Tensor, nn.Parameter) and torch._C._has_storage(t)
    return plain and t.data_ptr() != 0 and not t.is_neg()


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


def differentiate_again(
    reference: Callable[..., Any], inputs: Sequence[Any], needed: Sequence[bool], grads: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of those inputs that need one, as functions that can be differentiated once more.

    The kernels' cannot: this is for ``create_graph=True``, by a reference in standard operators.
    """
    # Views, since one input may depend on another: each gradient is to be that of its own place only.
    inputs = [t.view_as(t) if isinstance(t, Tensor) else t for t in inputs]
    wanted = [t for t, need in zip(inputs, needed, strict=False) if need]
    outputs = reference(*inputs)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    found = iter(torch.autograd.grad(outputs, wanted, grads, create_graph=True))
    return tuple(next(found) if need else None for need in needed)


def as_function(name: str, forward: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    """Return a function of autograd, which profiles show under its name."""
    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function: Any = type(f"dicenas::{name}", (torch.autograd.Function,), methods)
    return function.apply


def _differentiable(name: str, results: int, scalars: int, reference: Callable[..., Any]) -> Any:
    """Register the gradient of an operator of tensors and, behind them, ``scalars``.

    Its first ``results`` outputs are differentiable, the others are kept for the backward pass.

    Returns:
        The function that calls its kernels directly.
    """
    operator = training.operators[f"{name}_backward"]
    implementation, kernel = (training.implementations[key] for key in (name, f"{name}_backward"))

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        kept = output[results:]
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(results > 1)
        ctx.save_for_backward(*inputs[:-scalars], *kept)
        ctx.scalars = inputs[-scalars:]

    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        output = implementation(*inputs)
        setup(ctx, inputs, output)
        return output

    def gradient(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        needed, nothing = ctx.needs_input_grad[:-scalars], (None,) * scalars
        if grads[0] is None:  # what follows has no gradient either
            return (None,) * len(needed) + nothing
        saved = ctx.saved_tensors
        if torch.is_grad_enabled():
            inputs = *saved[: len(needed)], *ctx.scalars
            return *differentiate_again(reference, inputs, needed, grads[:results]), *nothing
        backward = kernel if direct(*grads[:results], *saved) else operator
        values = backward(*grads[:results], *saved, *ctx.scalars)
        return *(v if need else None for v, need in zip(values, needed, strict=True)), *nothing

    torch.library.register_autograd(f"dicenas::{name}", gradient, setup_context=setup, lib=training.library)
    return as_function(name, forward, gradient)


norm_act = _differentiable("norm_act", 1, 1, norm_act_reference)
depthwise_norm_act = _differentiable("depthwise_norm_act", 1, 1, depthwise_norm_act_reference)
local_fusion = _differentiable("local_fusion", 2, 2, local_fusion_reference)
