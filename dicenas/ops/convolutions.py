"""Single convolutions as candidate ops: standard, point-wise, grouped, depth-wise, dilated, factorised, stacked."""

from __future__ import annotations

from math import gcd

from torch import Tensor, nn

from dicenas.ops.cost import Cost, conv_cost, conv_norm_act_cost, norm_act_cost, squeeze_excitation_cost
from dicenas.ops.layers import ConvNormAct, SqueezeExcitation, make_activation
from dicenas.ops.registry import CandidateArguments, from_arguments, register_op
from dicenas.ops.slicing import prefixes

__all__ = ["ShapedConvNormAct", "common_groups"]

_MOST_GROUPS = 8
_DILATION = 2


class ShapedConvNormAct(nn.Module):
    """:class:`ConvNormAct` with a kernel not square, or dilated: ``(N, C_in, H, W)`` to ``(N, C_out, H', W')``.

    Padding keeps the size at stride 1 and gives ``ceil(size / 2)`` at stride 2, in each direction.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Odd height and width of the kernel.
        stride: Vertical and horizontal stride.
        dilation: Distance of the kernel's points, in both directions.
        activation: Name of the activation, or ``None`` for a linear output.

    Raises:
        ValueError: A side of the kernel is even or below 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        dilation: int = 1,
        activation: str | None = "prelu",
    ) -> None:
        super().__init__()
        height, width = kernel_size
        if min(kernel_size) < 1 or height % 2 == 0 or width % 2 == 0:
            raise ValueError(f"kernel_size {kernel_size} should be odd and positive: only odd kernels keep the size")
        padding = (dilation * (height - 1) // 2, dilation * (width - 1) // 2)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
        self.norm = nn.BatchNorm2d(out_channels)
        self.act = make_activation(activation, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


def common_groups(in_channels: int, out_channels: int, most: int) -> int:
    """Return the largest number of groups, up to ``most``, that divides both numbers of channels."""
    common = gcd(in_channels, out_channels)
    return max(groups for groups in range(1, most + 1) if common % groups == 0)


def _conv_cost(a: CandidateArguments, groups: int = 1) -> Cost:
    return conv_norm_act_cost(a.in_channels, a.out_channels, a.kernel_size, a.size, groups, a.last_activation)


@register_op("pointwise", kernel_sizes=(), cost=_conv_cost, slice=prefixes, group="convolution")
@from_arguments
def pointwise(a: CandidateArguments) -> nn.Module:
    """Point-wise (1x1) convolution."""
    return ConvNormAct(a.in_channels, a.out_channels, 1, a.stride, activation=a.last_activation)


@register_op("conv", kernel_sizes=(3, 5, 7), cost=_conv_cost, slice=prefixes, group="convolution")
@from_arguments
def conv(a: CandidateArguments) -> nn.Module:
    """Standard convolution."""
    return ConvNormAct(a.in_channels, a.out_channels, a.kernel_size, a.stride, activation=a.last_activation)


def _groups(a: CandidateArguments) -> int:
    return common_groups(a.in_channels, a.out_channels, _MOST_GROUPS)


@register_op(
    "grouped", kernel_sizes=(3, 5), cost=lambda a: _conv_cost(a, _groups(a)), slice=prefixes, group="convolution"
)
@from_arguments
def grouped(a: CandidateArguments) -> nn.Module:
    """Grouped convolution, up to 8 groups (ResNeXt).

    There are as many as divide both numbers of channels.
    """
    return ConvNormAct(a.in_channels, a.out_channels, a.kernel_size, a.stride, _groups(a), a.last_activation)


@register_op(
    "depthwise",
    kernel_sizes=(3, 5, 7),
    supports=lambda a: a.out_channels % a.in_channels == 0,
    cost=lambda a: _conv_cost(a, a.in_channels),
    slice=prefixes,
    group="convolution",
)
@from_arguments
def depthwise(a: CandidateArguments) -> nn.Module:
    """Depth-wise convolution alone, to a multiple of the input's channels."""
    return ConvNormAct(a.in_channels, a.out_channels, a.kernel_size, a.stride, a.in_channels, a.last_activation)


@register_op("dilated", kernel_sizes=(3, 5), cost=_conv_cost, slice=prefixes, group="convolution")
@from_arguments
def dilated(a: CandidateArguments) -> nn.Module:
    """Standard convolution with dilation 2."""
    kernel_size, stride = (a.kernel_size, a.kernel_size), (a.stride, a.stride)
    return ShapedConvNormAct(a.in_channels, a.out_channels, kernel_size, stride, _DILATION, a.last_activation)


def _factorized_cost(a: CandidateArguments) -> Cost:
    between = (a.size[0], a.in_size[1])  # the first layer strides over the rows alone
    vertical = conv_cost(a.in_channels, a.out_channels, (a.kernel_size, 1), between)
    horizontal = conv_cost(a.out_channels, a.out_channels, (1, a.kernel_size), a.size)
    norms = norm_act_cost(a.out_channels, a.activation) + norm_act_cost(a.out_channels, a.last_activation)
    return vertical + horizontal + norms


@register_op("factorized", kernel_sizes=(3, 5, 7), cost=_factorized_cost, slice=prefixes, group="convolution")
@from_arguments
def factorized(a: CandidateArguments) -> nn.Module:
    """Convolutions k x 1, then 1 x k (Inception-v3).

    arXiv 1512.00567, Section 3.2.
    """
    k, c = a.kernel_size, a.out_channels
    return nn.Sequential(
        ShapedConvNormAct(a.in_channels, c, (k, 1), (a.stride, 1), activation=a.activation),
        ShapedConvNormAct(c, c, (1, k), (1, a.stride), activation=a.last_activation),
    )


def _stack(a: CandidateArguments) -> list[tuple[int, int, str | None]]:
    """Input channels, stride and activation of each 3x3 layer that together reach as far as the kernel."""
    last = (a.kernel_size - 1) // 2 - 1
    return [
        (
            a.out_channels if position else a.in_channels,
            1 if position else a.stride,
            a.activation if position < last else a.last_activation,
        )
        for position in range(last + 1)
    ]


def _stacked_cost(a: CandidateArguments) -> Cost:
    costs = (
        conv_norm_act_cost(channels, a.out_channels, 3, a.size, activation=activation)
        for channels, _, activation in _stack(a)
    )
    return sum(costs, Cost())


@register_op("stacked", kernel_sizes=(5, 7), cost=_stacked_cost, slice=prefixes, group="convolution")
@from_arguments
def stacked(a: CandidateArguments) -> nn.Module:
    """3x3 convolutions in place of one 5x5 or 7x7 (VGG, Inception-v3)."""
    return nn.Sequential(
        *(
            ConvNormAct(channels, a.out_channels, 3, stride, activation=activation)
            for channels, stride, activation in _stack(a)
        )
    )


def _se_cost(a: CandidateArguments) -> Cost:
    slopes = a.in_channels if a.last_activation == "prelu" else 0
    return squeeze_excitation_cost(a.in_channels) + Cost(params=slopes)


@register_op(
    "se",
    kernel_sizes=(),
    supports=lambda a: a.stride == 1 and a.in_channels == a.out_channels,
    cost=_se_cost,
    slice=prefixes,
    group="convolution",
)
@from_arguments
def se(a: CandidateArguments) -> nn.Module:
    """Squeeze-and-excitation alone, where the shape stays."""
    gate = SqueezeExcitation(a.in_channels)
    return nn.Sequential(gate, make_activation(a.activation, a.in_channels)) if a.final_activation else gate
