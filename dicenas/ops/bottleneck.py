"""Blocks of three convolutions as candidate ops: the bottleneck, ShuffleNet's, and the inverted residual."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from dicenas.ops.candidates import separable_cost
from dicenas.ops.convolutions import common_groups
from dicenas.ops.cost import Cost, conv_norm_act_cost, squeeze_excitation_cost
from dicenas.ops.layers import ChannelShuffle, ConvNormAct, SqueezeExcitation, make_activation
from dicenas.ops.registry import CandidateArguments, from_arguments, register_op
from dicenas.ops.separable import SeparableConv
from dicenas.ops.slicing import prefixes

__all__ = ["Bottleneck", "InvertedBottleneck", "ShuffleBottleneck"]

_REDUCTION = 4
_EXPANSION = 6
_MOST_GROUPS = 4


class Bottleneck(nn.Module):
    """ResNet's bottleneck (arXiv 1512.03385): ``(N, C_in, H, W)`` to ``(N, C_out, H', W')``.

    A point-wise convolution reduces the channels, a standard one filters, a point-wise one expands them. The input is
    added where the shape allows, before the last activation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        hidden_channels: Channels inside.
        kernel_size: Odd kernel size of the convolution in the middle.
        stride: Its stride.
        activation: Name of the activation.
        final_activation: Whether the output is activated.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        activation: str = "prelu",
        final_activation: bool = True,
    ) -> None:
        super().__init__()
        self.reduce = ConvNormAct(in_channels, hidden_channels, 1, activation=activation)
        self.conv = ConvNormAct(hidden_channels, hidden_channels, kernel_size, stride, activation=activation)
        self.expand = ConvNormAct(hidden_channels, out_channels, 1, activation=None)
        self.act = make_activation(activation if final_activation else None, out_channels)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.expand(self.conv(self.reduce(x)))
        return self.act(x + y if self.residual else y)


class ShuffleBottleneck(nn.Module):
    """ShuffleNet's unit (arXiv 1707.01083, Figure 2b): ``(N, C_in, H, W)`` to ``(N, C_out, H', W')``.

    A bottleneck whose point-wise convolutions are grouped, with a channel shuffle behind the first, and whose middle is
    depth-wise. The input is added where the shape allows, before the last activation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        hidden_channels: Channels inside.
        groups: Groups of the point-wise convolutions; they divide all three numbers of channels.
        kernel_size: Odd kernel size of the depth-wise convolution.
        stride: Its stride.
        activation: Name of the activation.
        final_activation: Whether the output is activated.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int,
        groups: int,
        kernel_size: int = 3,
        stride: int = 1,
        activation: str = "prelu",
        final_activation: bool = True,
    ) -> None:
        super().__init__()
        self.reduce = ConvNormAct(in_channels, hidden_channels, 1, groups=groups, activation=activation)
        self.shuffle = ChannelShuffle(groups)
        self.depthwise = ConvNormAct(
            hidden_channels, hidden_channels, kernel_size, stride, groups=hidden_channels, activation=None
        )
        self.expand = ConvNormAct(hidden_channels, out_channels, 1, groups=groups, activation=None)
        self.act = make_activation(activation if final_activation else None, out_channels)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.expand(self.depthwise(self.shuffle(self.reduce(x))))
        return self.act(x + y if self.residual else y)


class InvertedBottleneck(nn.Module):
    """MobileNetV2's inverted residual (arXiv 1801.04381): ``(N, C_in, H, W)`` to ``(N, C_out, H', W')``.

    A point-wise convolution expands the channels, a depth-wise one filters, a linear point-wise one projects. The input
    is added where the shape allows; as published, nothing follows (``final_activation=False``).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        hidden_channels: Channels inside.
        kernel_size: Odd kernel size of the depth-wise convolution.
        stride: Its stride.
        se: Module behind the depth-wise convolution, the place where MobileNetV3 has its squeeze-and-excitation.
        activation: Name of the activation.
        final_activation: Whether the output is activated.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        se: nn.Module | None = None,
        activation: str = "relu6",
        final_activation: bool = False,
    ) -> None:
        super().__init__()
        self.expand = ConvNormAct(in_channels, hidden_channels, 1, activation=activation)
        self.separable = SeparableConv(
            hidden_channels, out_channels, kernel_size, stride, se, activation, final_activation=False
        )
        self.act = make_activation(activation if final_activation else None, out_channels)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.separable(self.expand(x))
        return self.act(x + y if self.residual else y)


def _slopes(a: CandidateArguments) -> Cost:
    """The parameters of an activation behind the sum of block and input."""
    return Cost(params=a.out_channels if a.final_activation and a.activation == "prelu" else 0)


def _hidden(a: CandidateArguments) -> int:
    return max(1, a.out_channels // _REDUCTION)


def _bottleneck_cost(a: CandidateArguments) -> Cost:
    hidden = _hidden(a)
    reduce = conv_norm_act_cost(a.in_channels, hidden, 1, a.in_size, activation=a.activation)
    conv = conv_norm_act_cost(hidden, hidden, a.kernel_size, a.size, activation=a.activation)
    return reduce + conv + conv_norm_act_cost(hidden, a.out_channels, 1, a.size, activation=None) + _slopes(a)


@register_op("bottleneck", kernel_sizes=(3, 5), cost=_bottleneck_cost, slice=prefixes, group="block")
@from_arguments
def bottleneck(a: CandidateArguments) -> nn.Module:
    """Point-wise to a quarter of the channels, convolution, back (ResNet)."""
    return Bottleneck(
        a.in_channels, a.out_channels, _hidden(a), a.kernel_size, a.stride, a.activation, a.final_activation
    )


def _shuffle_channels(a: CandidateArguments) -> tuple[int, int]:
    """Groups and hidden channels; the groups divide input, output and what is between them."""
    groups = common_groups(a.in_channels, a.out_channels, _MOST_GROUPS)
    return groups, max(1, a.out_channels // _REDUCTION // groups) * groups


def _shuffle_bottleneck_cost(a: CandidateArguments) -> Cost:
    groups, hidden = _shuffle_channels(a)
    reduce = conv_norm_act_cost(a.in_channels, hidden, 1, a.in_size, groups, a.activation)
    depthwise = conv_norm_act_cost(hidden, hidden, a.kernel_size, a.size, hidden, None)
    return reduce + depthwise + conv_norm_act_cost(hidden, a.out_channels, 1, a.size, groups, None) + _slopes(a)


@register_op("shuffle_bottleneck", kernel_sizes=(3, 5), cost=_shuffle_bottleneck_cost, slice=prefixes, group="block")
@from_arguments
def shuffle_bottleneck(a: CandidateArguments) -> nn.Module:
    """Bottleneck of grouped point-wise convolutions, shuffled (ShuffleNet)."""
    groups, hidden = _shuffle_channels(a)
    return ShuffleBottleneck(
        a.in_channels, a.out_channels, hidden, groups, a.kernel_size, a.stride, a.activation, a.final_activation
    )


def _inverted_residual_cost(a: CandidateArguments) -> Cost:
    hidden = _EXPANSION * a.in_channels
    expand = conv_norm_act_cost(a.in_channels, hidden, 1, a.in_size, activation=a.activation)
    return expand + separable_cost(replace(a, in_channels=hidden, final_activation=False)) + _slopes(a)


@register_op("inverted_residual", kernel_sizes=(3, 5, 7), cost=_inverted_residual_cost, slice=prefixes, group="block")
@from_arguments
def inverted_residual(a: CandidateArguments) -> nn.Module:
    """Point-wise to six times the channels, depth-wise, back (MobileNetV2)."""
    return _inverted_residual(a, None)


def _inverted_residual_se_cost(a: CandidateArguments) -> Cost:
    return _inverted_residual_cost(a) + squeeze_excitation_cost(_EXPANSION * a.in_channels)


@register_op(
    "inverted_residual_se", kernel_sizes=(3, 5), cost=_inverted_residual_se_cost, slice=prefixes, group="block"
)
@from_arguments
def inverted_residual_se(a: CandidateArguments) -> nn.Module:
    """The inverted residual with squeeze-and-excitation inside (MNASNet)."""
    return _inverted_residual(a, SqueezeExcitation(_EXPANSION * a.in_channels))


def _inverted_residual(a: CandidateArguments, se: nn.Module | None) -> nn.Module:
    hidden = _EXPANSION * a.in_channels
    return InvertedBottleneck(
        a.in_channels, a.out_channels, hidden, a.kernel_size, a.stride, se, a.activation, a.final_activation
    )
