"""Closed forms for what layers cost: multiply-adds and parameters, without building a module."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Cost", "conv_cost", "conv_norm_act_cost", "norm_act_cost"]


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
    kernel_size: int,
    size: tuple[int, int],
    groups: int = 1,
    bias: bool = False,
) -> Cost:
    """Return the cost of a 2-d convolution whose *output* is ``size`` = (H, W)."""
    weights = out_channels * (in_channels // groups) * kernel_size**2
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
