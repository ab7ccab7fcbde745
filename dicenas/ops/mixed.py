"""The ops of the mobile networks that were found by search: MobileNetV3's squeeze-and-excitation, MixNet's kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dicenas.ops.candidates import separable_cost
from dicenas.ops.cost import Cost, conv_cost, conv_norm_act_cost, norm_act_cost
from dicenas.ops.layers import ConvNormAct, SqueezeExcitation, make_activation, make_divisible
from dicenas.ops.registry import CandidateArguments, from_arguments, register_op
from dicenas.ops.separable import SeparableConv
from dicenas.ops.slicing import prefixes

__all__ = [
    "MixedConv",
    "MixedSeparableConv",
    "hard_se_cost",
    "mixed",
    "mixed_channels",
    "mixed_cost",
    "mixed_hse",
    "separable_hse",
]

#: MobileNetV3's bottleneck has a quarter of the channels, in multiples of 8.
_SE_DIVISOR = 8


def mixed_channels(channels: int, kernel_size: int) -> tuple[int, ...]:
    """Return the channels of each kernel of a mixed convolution: 3, 5, ... ``kernel_size``.

    The split is equal, and what remains goes to the smallest kernel (MixNet, arXiv 1907.09595, Section 3.1).
    """
    groups = (kernel_size - 1) // 2
    each = channels // groups
    return (channels - (groups - 1) * each, *(each,) * (groups - 1))


class MixedConv(nn.Module):
    """Depth-wise convolution whose channels have kernels of several sizes (MixConv, arXiv 1907.09595).

    Maps ``(N, C, H, W)`` to ``(N, C, H', W')``: the first channels have 3 x 3 kernels, the next ones 5 x 5, and so on.
    Padding keeps the size at stride 1 and gives ``ceil(size / 2)`` at stride 2.

    Args:
        channels: Channels C, at least one for each kernel size.
        kernel_size: The largest kernel size, odd and at least 3.
        stride: Stride of all convolutions.

    Raises:
        ValueError: There are fewer channels than kernel sizes, or the kernel size is even or less than 3.
    """

    def __init__(self, channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        if kernel_size < 3 or kernel_size % 2 == 0 or channels < (kernel_size - 1) // 2:
            raise ValueError(f"{channels} channels cannot have odd kernels from 3 to {kernel_size}, at least one each")
        self.split = mixed_channels(channels, kernel_size)
        self.convs = nn.ModuleList()
        for index, part in enumerate(self.split):
            size = 3 + 2 * index
            conv = nn.Conv2d(part, part, size, stride, size // 2, groups=part, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out")
            self.convs.append(conv)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(self.split, 1)
        # By index: torch.fx can follow that, but does not know how many parts there are.
        return torch.cat([conv(parts[index]) for index, conv in enumerate(self.convs)], 1)


class MixedSeparableConv(nn.Module):
    """Depth-wise separable convolution with mixed kernels: ``(N, C_in, H, W)`` to ``(N, C_out, H', W')``.

    There is one activation, where :class:`~dicenas.ops.SeparableConv` has it.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: The largest kernel size of the depth-wise convolution.
        stride: Stride of the depth-wise convolution.
        se: Module between the two convolutions.
        activation: Name of the activation.
        final_activation: Whether the output is activated.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 5,
        stride: int = 1,
        se: nn.Module | None = None,
        activation: str = "prelu",
        final_activation: bool = True,
    ) -> None:
        super().__init__()
        self.depthwise = MixedConv(in_channels, kernel_size, stride)
        self.norm: nn.Module = nn.BatchNorm2d(in_channels)
        self.act = make_activation(None if final_activation else activation, in_channels)
        self.se = se if se is not None else nn.Identity()
        self.pointwise = ConvNormAct(in_channels, out_channels, 1, activation=activation if final_activation else None)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.se(self.act(self.norm(self.depthwise(x)))))


def hard_se_cost(channels: int) -> Cost:
    """Return the cost of MobileNetV3's squeeze-and-excitation."""
    squeezed = make_divisible(channels // 4, _SE_DIVISOR)
    reduce = conv_cost(channels, squeezed, 1, (1, 1), bias=True)
    return reduce + conv_cost(squeezed, channels, 1, (1, 1), bias=True)


def mixed_cost(a: CandidateArguments) -> Cost:
    """Return the cost of :func:`mixed`."""
    cost = norm_act_cost(a.in_channels, None if a.final_activation else a.activation)
    for index, part in enumerate(mixed_channels(a.in_channels, a.kernel_size)):
        cost += conv_cost(part, part, 3 + 2 * index, a.size, groups=part)
    return cost + conv_norm_act_cost(a.in_channels, a.out_channels, 1, a.size, activation=a.last_activation)


def _one_channel_each(a: CandidateArguments) -> bool:
    return a.in_channels >= (a.kernel_size - 1) // 2


def _hard_se(channels: int) -> SqueezeExcitation:
    return SqueezeExcitation(channels, divisor=_SE_DIVISOR, hard=True)


@register_op(
    "separable_hse",
    kernel_sizes=(3, 5),
    cost=lambda a: separable_cost(a) + hard_se_cost(a.in_channels),
    slice=prefixes,
    group="separable",
)
@from_arguments
def separable_hse(a: CandidateArguments) -> nn.Module:
    """Depth-wise, MobileNetV3's squeeze-and-excitation, point-wise.

    Its gate is a hard sigmoid.
    """
    se = _hard_se(a.in_channels)
    return SeparableConv(a.in_channels, a.out_channels, a.kernel_size, a.stride, se, a.activation, a.final_activation)


@register_op(
    "mixed", kernel_sizes=(5, 7, 9, 11), supports=_one_channel_each, cost=mixed_cost, slice=prefixes, group="separable"
)
@from_arguments
def mixed(a: CandidateArguments) -> nn.Module:
    """Depth-wise with kernels from 3 up to k, point-wise (MixNet)."""
    return _mixed(a, None)


@register_op(
    "mixed_hse",
    kernel_sizes=(5, 7, 9, 11),
    supports=_one_channel_each,
    cost=lambda a: mixed_cost(a) + hard_se_cost(a.in_channels),
    slice=prefixes,
    group="separable",
)
@from_arguments
def mixed_hse(a: CandidateArguments) -> nn.Module:
    """As mixed, with MobileNetV3's squeeze-and-excitation between."""
    return _mixed(a, _hard_se(a.in_channels))


def _mixed(a: CandidateArguments, se: nn.Module | None) -> nn.Module:
    return MixedSeparableConv(
        a.in_channels, a.out_channels, a.kernel_size, a.stride, se, a.activation, a.final_activation
    )
