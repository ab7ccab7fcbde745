"""The ops of DiCENet's ablations (arXiv 1906.03516, Tables 2 and 3): DimConv and DimFuse replaced one at a time.

A depth-wise or dimension-wise convolution (``dw``, ``dimconv``) is followed by a point-wise convolution (``pw``),
squeeze-and-excitation (``se``), both, or DimFuse; ``dimconv`` with DimFuse is the DiCE unit, ``dice``. The paper does
not say what all of these layers are; docs/paper.md says what is done here, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import gcd

from torch import Tensor, nn

from dicenas.ops.candidates import dice, dice_cost
from dicenas.ops.cost import (
    Cost,
    conv_norm_act_cost,
    dim_conv_cost,
    efficient_pw_cost,
    norm_act_cost,
    squeeze_excitation_cost,
)
from dicenas.ops.dice import EfficientPWConv, PooledShuffleUnit
from dicenas.ops.dim_conv import DimConv
from dicenas.ops.layers import ChannelShuffle, ConvNormAct, SqueezeExcitation, make_activation
from dicenas.ops.registry import CandidateArguments, Downsample, Entry, from_arguments, register_op
from dicenas.ops.slicing import Positions, branch_slices, prefixes, special_slices

__all__ = ["JoinedDimConv"]


class JoinedDimConv(nn.Module):
    """DimConv and the weighted average of its branches: ``(N, C_in, H, W)`` to ``(N, C_out, H, W)``.

    The DiCE unit without what follows its local fusion.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; where they equal ``in_channels``, each is the average of three branches
            of one channel, otherwise of as few channels as a grouped convolution allows.
        size: Native ``(H, W)``; inputs of other sizes are resized along the axis concerned.
        kernel_size: Odd kernel size of the dimension-wise convolution.
        activation: Name of the activation.
        final_activation: Whether the average is activated.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: tuple[int, int],
        kernel_size: int = 3,
        activation: str = "prelu",
        final_activation: bool = True,
    ) -> None:
        super().__init__()
        self.dim_conv = DimConv(in_channels, size, kernel_size)
        self.norm = nn.BatchNorm2d(3 * in_channels)
        self.act = make_activation(activation, 3 * in_channels)
        self.shuffle = ChannelShuffle(3)
        self.local = ConvNormAct(
            3 * in_channels,
            out_channels,
            1,
            groups=gcd(in_channels, out_channels),
            activation=activation if final_activation else None,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.local(self.shuffle(self.act(self.norm(self.dim_conv(x)))))


@special_slices.register
def _slices_of_joined(narrow: JoinedDimConv, wide: JoinedDimConv) -> dict[str, Positions]:
    # As in the DiCE unit: the branches lie one behind the other.
    return branch_slices(narrow, wide, ("norm", "act"), branches=3)


@dataclass(frozen=True)
class _Layer:
    """A layer as data: how to build it, and its closed form."""

    build: Callable[[CandidateArguments], nn.Module]
    cost: Callable[[CandidateArguments], Cost]


def _depthwise(a: CandidateArguments) -> nn.Module:
    groups = gcd(a.in_channels, a.out_channels)
    return ConvNormAct(a.in_channels, a.out_channels, a.kernel_size, a.stride, groups, a.last_activation)


def _depthwise_cost(a: CandidateArguments) -> Cost:
    groups = gcd(a.in_channels, a.out_channels)
    return conv_norm_act_cost(a.in_channels, a.out_channels, a.kernel_size, a.size, groups, a.last_activation)


def _dim_conv(a: CandidateArguments) -> nn.Module:
    unit = JoinedDimConv(a.in_channels, a.out_channels, a.size, a.kernel_size, a.activation, a.final_activation)
    return unit if a.stride == 1 else nn.Sequential(nn.AvgPool2d(3, stride=2, padding=1), unit)


def _dim_conv_cost(a: CandidateArguments) -> Cost:
    local = conv_norm_act_cost(
        3 * a.in_channels, a.out_channels, 1, a.size, gcd(a.in_channels, a.out_channels), a.last_activation
    )
    return dim_conv_cost(a.in_channels, a.size, a.kernel_size) + norm_act_cost(3 * a.in_channels, a.activation) + local


def _pointwise(a: CandidateArguments) -> nn.Module:
    return ConvNormAct(a.in_channels, a.out_channels, 1, activation=a.last_activation)


def _pointwise_cost(a: CandidateArguments) -> Cost:
    return conv_norm_act_cost(a.in_channels, a.out_channels, 1, a.size, activation=a.last_activation)


def _dim_fuse(a: CandidateArguments) -> nn.Module:
    return EfficientPWConv(a.in_channels, a.out_channels, a.last_activation)


def _dim_fuse_cost(a: CandidateArguments) -> Cost:
    return efficient_pw_cost(a.in_channels, a.out_channels, a.size, a.last_activation)


_DEPTHWISE = _Layer(_depthwise, _depthwise_cost)
_DIM_CONV = _Layer(_dim_conv, _dim_conv_cost)
_POINTWISE = _Layer(_pointwise, _pointwise_cost)
_DIM_FUSE = _Layer(_dim_fuse, _dim_fuse_cost)
_GATE = _Layer(lambda a: SqueezeExcitation(a.out_channels), lambda a: squeeze_excitation_cost(a.out_channels))
_DICE = _Layer(
    lambda a: dice(
        a.in_channels,
        a.out_channels,
        stride=a.stride,
        size=a.size,
        kernel_size=a.kernel_size,
        activation=a.activation,
        final_activation=a.final_activation,
    ),
    dice_cost,
)


def _steps(layers: tuple[_Layer, ...], a: CandidateArguments) -> Iterator[tuple[_Layer, CandidateArguments]]:
    """Yield the layers of an op with the arguments of each.

    The first layer strides, the last but a gate changes the channels and is activated as the op is to be.
    """
    last = max(position for position, layer in enumerate(layers) if layer is not _GATE)
    for position, layer in enumerate(layers):
        yield (
            layer,
            CandidateArguments(
                a.in_channels if position <= last else a.out_channels,
                a.in_channels if position < last else a.out_channels,
                a.stride if position == 0 else 1,
                a.size,
                a.kernel_size,
                a.activation,
                a.final_activation or position < last,
            ),
        )


def _build(layers: tuple[_Layer, ...], a: CandidateArguments) -> nn.Module:
    modules = [layer.build(arguments) for layer, arguments in _steps(layers, a)]
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


def _cost(layers: tuple[_Layer, ...], a: CandidateArguments) -> Cost:
    return sum((layer.cost(arguments) for layer, arguments in _steps(layers, a)), Cost())


def _build_dim_fuse(in_channels: int, out_channels: int, size: tuple[int, int], activation: str) -> nn.Module:
    return EfficientPWConv(in_channels, out_channels, activation)


_DIM_FUSE_FIRST = Entry(_build_dim_fuse, efficient_pw_cost)


def _downsample(layers: tuple[_Layer, ...], entry: Entry | None) -> Downsample:
    """Return DiCENet's down-sampling unit around an op.

    The point-wise convolution that stands in front of an op elsewhere stands behind it there, so ``entry`` does too.
    """

    def arguments(channels: int, size: tuple[int, int], kernel_size: int, activation: str) -> CandidateArguments:
        return CandidateArguments(channels, channels, 1, size, kernel_size, activation, final_activation=True)

    def build(channels: int, size: tuple[int, int], kernel_size: int, activation: str) -> nn.Module:
        op = _build(layers, arguments(channels, size, kernel_size, activation))
        last = None if entry is None else entry.build(channels, channels, size, activation)
        return PooledShuffleUnit(channels, op, last, activation)

    def cost(channels: int, size: tuple[int, int], kernel_size: int, activation: str) -> Cost:
        depthwise = conv_norm_act_cost(channels, channels, 3, size, groups=channels, activation=activation)
        pointwise = conv_norm_act_cost(channels, channels, 1, size, activation=activation)
        last = pointwise if entry is None else entry.cost(channels, channels, size, activation)
        return depthwise + pointwise + _cost(layers, arguments(channels, size, kernel_size, activation)) + last

    return Downsample(build, cost)


def _register(name: str, summary: str, *layers: _Layer, entry: Entry | None = None) -> None:
    """Register the op that is these layers, one behind the other."""

    def build(a: CandidateArguments) -> nn.Module:
        return _build(layers, a)

    build.__doc__ = summary
    register_op(
        name,
        supports=(lambda a: a.in_channels >= 4) if _DICE in layers else None,
        cost=partial(_cost, layers),
        slice=prefixes,
        downsample=None if layers[0] is _DEPTHWISE else _downsample(layers, entry),
        entry=entry,
        group="ablation",
    )(from_arguments(build))


_register("dw_pw", "Depth-wise, point-wise convolution, both activated (MobileNetV1)", _DEPTHWISE, _POINTWISE)
_register("dw_se", "Depth-wise convolution, squeeze-and-excitation", _DEPTHWISE, _GATE)
_register("dw_pw_se", "Depth-wise, point-wise convolution, squeeze-excitation", _DEPTHWISE, _POINTWISE, _GATE)
_register("dw_dimfuse", "Depth-wise convolution, dimension-wise fusion", _DEPTHWISE, _DIM_FUSE)
_register("dimconv_pw", "Dimension-wise, then point-wise convolution", _DIM_CONV, _POINTWISE)
_register("dimconv_se", "Dimension-wise convolution, squeeze-and-excitation", _DIM_CONV, _GATE)
_register("dimconv_pw_se", "Dimension-wise, point-wise convolution, squeeze-excitation", _DIM_CONV, _POINTWISE, _GATE)
_register(
    "dimfuse_dw_dimfuse",
    "dw_dimfuse, and DimFuse for the block's first point-wise convolution",
    _DEPTHWISE,
    _DIM_FUSE,
    entry=_DIM_FUSE_FIRST,
)
_register(
    "dimfuse_dimconv_dimfuse",
    "dice, and DimFuse for the block's first point-wise convolution",
    _DICE,
    entry=_DIM_FUSE_FIRST,
)
