"""Closed forms for what layers cost: multiply-adds and parameters, without building a module."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

__all__ = [
    "Cost",
    "conv_cost",
    "conv_norm_act_cost",
    "dim_conv_cost",
    "efficient_pw_cost",
    "norm_act_cost",
    "squeeze_excitation_cost",
]


@dataclass(frozen=True)
class Cost:
    """What an op, block or network costs for one image.

    Attributes:
        macs: Multiply-adds of convolutions and linear layers (the paper's "FLOPs"); norms, activations, pooling and
            resizing count nothing.
        params: Learnable parameters.
    """

    macs: int = 0
    params: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.params + other.params)


def conv_cost(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int],
    size: tuple[int, int],
    groups: int = 1,
    bias: bool = False,
) -> Cost:
    """Return the cost of a 2-d convolution whose *output* is ``size`` = (H, W); dilation changes nothing."""
    height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    weights = out_channels * (in_channels // groups) * height * width
    return Cost(weights * size[0] * size[1], weights + (out_channels if bias else 0))


def norm_act_cost(channels: int, activation: str | None) -> Cost:
    """Return the parameters of batch normalisation and the activation behind it (PReLU: a slope a channel)."""
    return Cost(params=2 * channels + (channels if activation == "prelu" else 0))


def conv_norm_act_cost(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    size: tuple[int, int],
    groups: int = 1,
    activation: str | None = "prelu",
) -> Cost:
    """Return the cost of :class:`~dicenas.ops.ConvNormAct` whose *output* is ``size`` = (H, W)."""
    conv = conv_cost(in_channels, out_channels, kernel_size, size, groups)
    return conv + norm_act_cost(out_channels, activation)


def squeeze_excitation_cost(channels: int, reduction: int = 4) -> Cost:
    """Return the cost of :class:`~dicenas.ops.SqueezeExcitation`."""
    squeezed = max(1, channels // reduction)
    reduce = conv_cost(channels, squeezed, 1, (1, 1), bias=True)
    return reduce + conv_cost(squeezed, channels, 1, (1, 1), bias=True)


def dim_conv_cost(channels: int, size: tuple[int, int], kernel_size: int) -> Cost:
    """Return the cost of :class:`~dicenas.ops.DimConv` on an input of its native ``size`` = (H, W)."""
    height, width = size
    kernel_area = kernel_size**2
    return Cost(3 * kernel_area * channels * height * width, kernel_area * (channels + width + height))


def efficient_pw_cost(in_channels: int, out_channels: int, size: tuple[int, int], activation: str | None) -> Cost:
    """Return the cost of :class:`~dicenas.ops.EfficientPWConv` on a map of ``size`` = (H, W)."""
    conv = conv_norm_act_cost(in_channels, out_channels, 3, size, gcd(in_channels, out_channels), activation)
    return conv + conv_cost(in_channels, out_channels, 1, (1, 1))
