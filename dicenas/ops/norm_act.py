"""Normalisation and activation in training, with the layers around them, by the fused kernels where these can.

The functions take modules and do what calling them one after another does, in value, gradient and running statistics.
On the CPU, in training mode, the kernels of :mod:`dicenas.ops.kernels` do it in one pass; everything else, such as
inference, other devices, layouts and activations, autocast, exports, or a module with hooks, runs the modules.
"""

from __future__ import annotations

from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from dicenas.ops import kernels
from dicenas.ops.dim_conv import DimConv, runs_by_kernels

__all__ = ["conv_norm_act", "dice_unit", "is_depthwise", "is_plain", "local_fusion", "norm_act"]

_Module = TypeVar("_Module", bound=nn.Module)


def is_plain(module: nn.Module, kind: type[_Module]) -> TypeGuard[_Module]:
    """Whether calling a module does what its class does: no subclass, no hooks, no ``forward`` of its own."""
    return type(module) is kind and not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )


def _suits(x: Tensor, *norms: nn.BatchNorm2d) -> bool:
    return (
        type(x) is Tensor  # not fx.Proxy, nor a fake or otherwise special tensor
        and kernels.trains(x)
        and not _has_any_global_hook()
        and all(
            is_plain(norm, nn.BatchNorm2d)
            and norm.training
            and all(
                constant is not None and constant.dtype == x.dtype and constant.device == x.device
                for constant in (norm.weight, norm.bias)
            )
            for norm in norms
        )
    )


def _slope(act: nn.Module, norm: nn.BatchNorm2d) -> Tensor | None:
    """The activation's slope for negative values in each channel, where it is linear by pieces and plain."""
    channels = norm.num_features
    if is_plain(act, nn.PReLU):
        slope = act.weight
        if slope.dtype != norm.weight.dtype or slope.device != norm.weight.device:
            return None
        return slope if slope.shape[0] == channels else slope.expand(channels)
    if is_plain(act, nn.ReLU):
        return norm.weight.new_zeros(channels)
    return norm.weight.new_ones(channels) if is_plain(act, nn.Identity) else None


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether a convolution has one square filter a channel, not dilated, and pads with zeros by half of it."""
    size = conv.kernel_size[0]
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and conv.kernel_size == (size, size)
        and conv.dilation == (1, 1)
        and conv.padding == (size // 2, size // 2)
        and conv.padding_mode == "zeros"
    )


def _has_kernel(conv: nn.Module, x: Tensor) -> bool:
    """Whether the operators of training take a module's depth-wise convolution of ``x``."""
    return (
        is_plain(conv, nn.Conv2d)
        and is_depthwise(conv)
        and conv.stride == (1, 1)
        and conv.kernel_size[0] in (3, 5)
        and conv.bias is None
        and conv.weight.dtype == x.dtype
    )


def _is_pointwise(conv: nn.Module, in_channels: int, out_channels: int, groups: int, x: Tensor) -> bool:
    """Whether a module is a plain 1x1 convolution of these channels, without bias, and of the type of ``x``."""
    return (
        is_plain(conv, nn.Conv2d)
        and (conv.in_channels, conv.out_channels, conv.groups) == (in_channels, out_channels, groups)
        and conv.kernel_size == conv.stride == (1, 1)
        and conv.padding == (0, 0)
        and conv.bias is None
        and conv.weight.dtype == x.dtype
    )


def _track(norm: nn.BatchNorm2d, mean: Tensor, var: Tensor) -> None:
    """Update the running statistics as :class:`torch.nn.BatchNorm2d` does."""
    if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
        return
    momentum: float | Tensor | None = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if momentum is None:
            momentum = (1 / norm.num_batches_tracked).to(mean.dtype)
    momentum = 0.0 if momentum is None else momentum
    with torch.no_grad():
        norm.running_mean.lerp_(mean, momentum)
        norm.running_var.lerp_(var, momentum)


def norm_act(x: Tensor, norm: nn.BatchNorm2d, act: nn.Module) -> Tensor:
    """Return ``act(norm(x))`` for ``(N, C, H, W)``."""
    if _suits(x, norm) and (slope := _slope(act, norm)) is not None:
        y, mean, var = kernels.norm_act(x, norm.weight, norm.bias, slope, norm.eps)
        _track(norm, mean, var)
        return y
    x = norm(x)  # under one name: the layer's input can go before the activation runs
    plain: Tensor = act(x)
    return plain


def conv_norm_act(
    x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d, act: nn.Module, gate: Tensor | None = None
) -> Tensor:
    """Return ``act(norm(conv(x)))`` for ``(N, C, H, W)``, times ``gate`` ``(N, C_out, 1, 1)`` if there is one."""
    if _suits(x, norm) and _has_kernel(conv, x) and (slope := _slope(act, norm)) is not None:
        scale = None if gate is None else gate.flatten(1)
        y, mean, var = kernels.depthwise_norm_act(x, conv.weight, norm.weight, norm.bias, slope, scale, norm.eps)
        _track(norm, mean, var)
        return y
    x = norm_act(conv(x), norm, act)
    return x if gate is None else x * gate


def local_fusion(
    x: Tensor, norm: nn.BatchNorm2d, act: nn.Module, conv: nn.Conv2d, out_norm: nn.BatchNorm2d, out_act: nn.Module
) -> tuple[Tensor, Tensor] | None:
    """Return what local fusion makes of the output ``(N, 3C, H, W)`` of dimension-wise convolution.

    That is normalised and activated by ``norm`` and ``act``, shuffled, and mixed by the grouped point-wise ``conv``,
    with ``out_norm`` and ``out_act`` behind it.

    Returns:
        The map ``(N, C, H, W)`` and its means over H and W ``(N, C, 1, 1)``, or ``None`` where the kernels cannot.
    """
    if not _suits(x, norm, out_norm):
        return None
    channels = x.shape[1] // 3
    if not _is_pointwise(conv, 3 * channels, channels, channels, x):
        return None
    slope, out_slope = _slope(act, norm), _slope(out_act, out_norm)
    if slope is None or out_slope is None:
        return None
    y, pooled, *statistics = kernels.local_fusion(
        x, norm.weight, norm.bias, slope, conv.weight.flatten(1), out_norm.weight, out_norm.bias, out_slope,
        norm.eps, out_norm.eps,
    )  # fmt: skip
    _track(norm, *statistics[:2])
    _track(out_norm, *statistics[2:])
    return y, pooled[:, :, None, None]


#: A convolution with its normalisation and activation.
_Layer = tuple[nn.Conv2d, nn.BatchNorm2d, nn.Module]


def dice_unit(
    x: Tensor,
    dim_conv: nn.Module,
    norm: nn.BatchNorm2d,
    act: nn.Module,
    local: _Layer,
    gate: tuple[nn.Module, nn.Module, nn.Module],
    spatial: _Layer,
) -> Tensor | None:
    """Return the training step's output of a DiCE unit that keeps its channels, ``(N, C, H, W)``: one node of autograd.

    Returns ``None`` where the kernels cannot, or where a compiler or a dispatch mode is to see the unit's operators.
    """
    (local_conv, local_norm, local_act), (spatial_conv, spatial_norm, spatial_act) = local, spatial
    reduce, gate_act, expand = gate
    if not (_suits(x, norm, local_norm, spatial_norm) and is_plain(dim_conv, DimConv)):
        return None
    channels, squeezed = x.shape[1], getattr(reduce, "out_channels", 0)
    if not (
        runs_by_kernels(dim_conv, x)
        and _has_kernel(spatial_conv, x)
        and spatial_conv.kernel_size == (3, 3)
        and _is_pointwise(local_conv, 3 * channels, channels, channels, x)
        and _is_pointwise(reduce, channels, squeezed, 1, x)
        and _is_pointwise(expand, squeezed, channels, 1, x)
        and is_plain(gate_act, nn.ReLU)
    ):
        return None
    slopes = [_slope(act, norm), _slope(local_act, local_norm), _slope(spatial_act, spatial_norm)]
    if any(slope is None for slope in slopes):
        return None
    results = kernels.dice_unit_step(
        x, dim_conv.weight_channel, dim_conv.weight_width, dim_conv.weight_height, norm.weight, norm.bias, slopes[0],
        local_conv.weight, local_norm.weight, local_norm.bias, slopes[1], reduce.weight, expand.weight,
        spatial_conv.weight, spatial_norm.weight, spatial_norm.bias, slopes[2],
        norm.eps, local_norm.eps, spatial_norm.eps,
    )  # fmt: skip
    if results is None:
        return None
    y, *statistics = results
    for i, tracked in enumerate((norm, local_norm, spatial_norm)):
        _track(tracked, *statistics[2 * i : 2 * i + 2])
    return y
