"""The candidate ops that come with the package."""

from __future__ import annotations

from math import gcd

from torch import nn

from dicenas.ops.cost import (
    Cost,
    conv_cost,
    conv_norm_act_cost,
    dim_conv_cost,
    norm_act_cost,
    squeeze_excitation_cost,
)
from dicenas.ops.dice import DiCE, StridedDiCE
from dicenas.ops.layers import SqueezeExcitation
from dicenas.ops.registry import CandidateArguments, Downsample, register_op
from dicenas.ops.separable import SeparableConv
from dicenas.ops.slicing import prefixes

__all__ = ["dice", "dice_cost", "separable", "separable_cost", "separable_se", "separable_se_cost", "skip"]


def separable_cost(a: CandidateArguments) -> Cost:
    """Return the cost of :func:`separable`."""
    depthwise = conv_norm_act_cost(
        a.in_channels,
        a.in_channels,
        a.kernel_size,
        a.size,
        groups=a.in_channels,
        activation=None if a.final_activation else a.activation,
    )
    pointwise = conv_norm_act_cost(a.in_channels, a.out_channels, 1, a.size, activation=a.last_activation)
    return depthwise + pointwise


@register_op("separable", kernel_sizes=(3, 5, 7), cost=separable_cost, slice=prefixes, group="separable")
def separable(
    in_channels: int,
    out_channels: int,
    *,
    stride: int,
    size: tuple[int, int],
    kernel_size: int,
    activation: str,
    final_activation: bool,
) -> nn.Module:
    """Depth-wise, then point-wise convolution."""
    return SeparableConv(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        activation=activation,
        final_activation=final_activation,
    )


def separable_se_cost(a: CandidateArguments) -> Cost:
    """Return the cost of :func:`separable_se`."""
    return separable_cost(a) + squeeze_excitation_cost(a.in_channels)


@register_op("separable_se", kernel_sizes=(3, 5), cost=separable_se_cost, slice=prefixes, group="separable")
def separable_se(
    in_channels: int,
    out_channels: int,
    *,
    stride: int,
    size: tuple[int, int],
    kernel_size: int,
    activation: str,
    final_activation: bool,
) -> nn.Module:
    """Depth-wise, squeeze-and-excitation, point-wise convolution."""
    return SeparableConv(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        se=SqueezeExcitation(in_channels),
        activation=activation,
        final_activation=final_activation,
    )


def dice_cost(a: CandidateArguments) -> Cost:
    """Return the cost of :func:`dice` on an input of its native size."""
    c_in, c_out = a.in_channels, a.out_channels
    dim_conv = dim_conv_cost(c_in, a.size, a.kernel_size)
    local = conv_norm_act_cost(3 * c_in, c_in, 1, a.size, groups=c_in, activation=a.activation)
    spatial = conv_norm_act_cost(c_in, c_out, 3, a.size, groups=gcd(c_in, c_out), activation=a.last_activation)
    gate = conv_cost(c_in, c_in // 4, 1, (1, 1)) + conv_cost(c_in // 4, c_out, 1, (1, 1))
    return dim_conv + norm_act_cost(3 * c_in, a.activation) + local + spatial + gate


def _strided_dice(channels: int, size: tuple[int, int], kernel_size: int, activation: str) -> nn.Module:
    return StridedDiCE(channels, size, kernel_size, activation=activation)


def _strided_dice_cost(channels: int, size: tuple[int, int], kernel_size: int, activation: str) -> Cost:
    unit = dice_cost(CandidateArguments(channels, channels, 1, size, kernel_size, activation, True))
    depthwise = conv_norm_act_cost(channels, channels, 3, size, groups=channels, activation=activation)
    pointwise = conv_norm_act_cost(channels, channels, 1, size, activation=activation)
    return depthwise + pointwise + unit + pointwise


@register_op(
    "dice",
    kernel_sizes=(3, 5),
    supports=lambda arguments: arguments.in_channels >= 4,
    cost=dice_cost,
    slice=prefixes,
    downsample=Downsample(_strided_dice, _strided_dice_cost),
    group="DiCE",
)
def dice(
    in_channels: int,
    out_channels: int,
    *,
    stride: int,
    size: tuple[int, int],
    kernel_size: int,
    activation: str,
    final_activation: bool,
) -> nn.Module:
    """The DiCE unit; at stride 2 behind average pooling."""
    unit = DiCE(
        in_channels,
        out_channels,
        size,
        kernel_size,
        activation=activation,
        final_activation=final_activation,
    )
    return unit if stride == 1 else nn.Sequential(nn.AvgPool2d(3, stride=2, padding=1), unit)


def _keeps_shape(arguments: CandidateArguments) -> bool:
    return arguments.stride == 1 and arguments.in_channels == arguments.out_channels


@register_op(
    "skip",
    kernel_sizes=(),
    supports=_keeps_shape,
    cost=lambda arguments: Cost(),
    slice=prefixes,
    identity=True,
    group="identity",
)
def skip(
    in_channels: int,
    out_channels: int,
    *,
    stride: int,
    size: tuple[int, int],
    kernel_size: int,
    activation: str,
    final_activation: bool,
) -> nn.Module:
    """The identity, where input and output have one shape."""
    return nn.Identity()
