"""The DiCE unit: dimension-wise convolution and fusion (DiCENet, arXiv 1906.03516, Section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import torch
from torch import Tensor, nn

from dicenas.ops.dim_conv import DimConv
from dicenas.ops.layers import ChannelShuffle, ConvNormAct, make_activation
from dicenas.ops.norm_act import conv_norm_act, dice_unit, is_plain, local_fusion
from dicenas.ops.slicing import Positions, branch_slices, special_slices

__all__ = ["DiCE", "DimFuse", "EfficientPWConv", "PooledShuffleUnit", "StridedDiCE"]


class DimFuse(nn.Module):
    """Dimension-wise fusion (DiCENet, Section 3.2): ``(N, branches * C, H, W)`` to ``(N, C_out, H, W)``.

    Local fusion mixes the branches of each channel; global fusion mixes channels with a grouped 3x3 convolution and
    scales them with a gate computed from the globally pooled map.

    Args:
        in_channels: Channels C of one branch.
        out_channels: Channels of the output.
        branches: Branches in the input, one after another: three behind :class:`DimConv`.
        shuffle: Bring the branches of a channel together before local fusion. Without it each group of local
            fusion takes consecutive channels of the unshuffled map.
        activation: Name of the activation.
        final_activation: Whether the spatial convolution's output is activated before the gate scales it.

    Raises:
        ValueError: Fewer than 4 input channels: the gate's bottleneck has ``in_channels // 4``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        branches: int = 3,
        shuffle: bool = True,
        activation: str = "prelu",
        final_activation: bool = True,
    ) -> None:
        super().__init__()
        if in_channels < 4:
            raise ValueError(f"in_channels {in_channels} is below 4: the gate's bottleneck takes a quarter of it")
        if out_channels < 1:
            raise ValueError(f"out_channels {out_channels} must be at least 1")
        self.shuffle = ChannelShuffle(branches) if shuffle else nn.Identity()
        self.local = ConvNormAct(branches * in_channels, in_channels, 1, groups=in_channels, activation=activation)
        self.spatial = ConvNormAct(
            in_channels,
            out_channels,
            3,
            groups=gcd(in_channels, out_channels),
            activation=activation if final_activation else None,
        )
        self.gate_reduce = nn.Conv2d(in_channels, in_channels // 4, 1, bias=False)
        self.gate_act = nn.ReLU()
        self.gate_expand = nn.Conv2d(in_channels // 4, out_channels, 1, bias=False)
        nn.init.kaiming_normal_(self.gate_reduce.weight, mode="fan_out")
        nn.init.kaiming_normal_(self.gate_expand.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        x = self.local(self.shuffle(x))
        return self.fuse_globally(x, x.mean((2, 3), keepdim=True))

    def fuse_globally(self, x: Tensor, means: Tensor) -> Tensor:
        """Return the global fusion of ``(N, C, H, W)``, whose means over H and W ``(N, C, 1, 1)`` are known."""
        gate = torch.sigmoid(self.gate_expand(self.gate_act(self.gate_reduce(means))))
        if is_plain(self.spatial, ConvNormAct):
            return conv_norm_act(x, self.spatial.conv, self.spatial.norm, self.spatial.act, gate)
        return self.spatial(x) * gate


class EfficientPWConv(nn.Module):
    """Dimension-wise fusion of a single map: ``(N, C_in, H, W)`` to ``(N, C_out, H, W)``.

    It stands for a point-wise convolution: a 3x3 convolution in as many groups as the channels allow, scaled by a gate
    from the globally pooled map, which sees all channels. With one map there are no branches to join, so there is no
    local fusion. The name is EdgeNets'; the paper calls it DimFuse (DiCENet, Section 3.2 and Table 3).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        activation: Name of the activation, or ``None`` for a linear convolution below the gate.
    """

    def __init__(self, in_channels: int, out_channels: int, activation: str | None = "prelu") -> None:
        super().__init__()
        self.gate = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.conv = ConvNormAct(
            in_channels, out_channels, 3, groups=gcd(in_channels, out_channels), activation=activation
        )
        nn.init.kaiming_normal_(self.gate.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return self.conv(x) * gate


class DiCE(nn.Module):
    """The DiCE unit (DiCENet, Figure 3): ``(N, C_in, H, W)`` to ``(N, C_out, H, W)``.

    Args:
        in_channels: Channels of the input, at least 4.
        out_channels: Channels of the output.
        size: Native ``(H, W)``; inputs of other sizes are resized along the axis concerned.
        kernel_size: Odd kernel size of the dimension-wise convolution; the fusion's spatial kernel is always 3x3.
        dilation: ``(d_channel, d_width, d_height)``.
        shuffle: Whether local fusion sees the three branches of one channel together.
        activation: Name of the activation.
        final_activation: Whether the spatial convolution's output is activated before the gate scales it.

    Raises:
        ValueError: An even kernel size, fewer than 4 input channels, or a size or dilation below 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: tuple[int, int],
        kernel_size: int = 3,
        dilation: Sequence[int] = (1, 1, 1),
        shuffle: bool = True,
        activation: str = "prelu",
        final_activation: bool = True,
    ) -> None:
        super().__init__()
        self.dim_conv = DimConv(in_channels, size, kernel_size, dilation)
        self.norm = nn.BatchNorm2d(3 * in_channels)
        self.act = make_activation(activation, 3 * in_channels)
        self.dim_fuse = DimFuse(
            in_channels,
            out_channels,
            shuffle=shuffle,
            activation=activation,
            final_activation=final_activation,
        )

    def forward(self, x: Tensor) -> Tensor:
        # In training the kernels may cross the modules, if calling these would do nothing else.
        if is_plain(self.dim_fuse, DimFuse) and _is_plain_in_training(self):
            y = _whole_unit(self, x)
            if y is not None:
                return y
        x = self.dim_conv(x)
        if is_plain(self.dim_fuse, DimFuse) and _is_plain_in_training(self):
            local = self.dim_fuse.local
            fused = local_fusion(x, self.norm, self.act, local.conv, local.norm, local.act)
            if fused is not None:
                return self.dim_fuse.fuse_globally(*fused)
        x = self.norm(x)  # under one name, so that each map of 3C channels goes as soon as the next is there
        x = self.act(x)
        return self.dim_fuse(x)


def _is_plain_in_training(unit: DiCE) -> bool:
    """Whether local fusion of a unit in training is that of its modules' classes."""
    shuffle = unit.dim_fuse.shuffle
    plain = is_plain(shuffle, ChannelShuffle) and shuffle.groups == 3
    return unit.training and plain and is_plain(unit.dim_fuse.local, ConvNormAct)


def _whole_unit(unit: DiCE, x: Tensor) -> Tensor | None:
    """Run a unit by one function of autograd, or return ``None`` where its other modules might do something else."""
    fuse, local, spatial = unit.dim_fuse, unit.dim_fuse.local, unit.dim_fuse.spatial
    if not is_plain(spatial, ConvNormAct):
        return None
    gate = (fuse.gate_reduce, fuse.gate_act, fuse.gate_expand)
    layers = [(layer.conv, layer.norm, layer.act) for layer in (local, spatial)]
    return dice_unit(x, unit.dim_conv, unit.norm, unit.act, layers[0], gate, layers[1])


@special_slices.register
def _slices_of_dice(narrow: DiCE, wide: DiCE) -> dict[str, Positions]:
    # Normalisation and activation stand in front of the shuffle: the branches lie one behind the other.
    return branch_slices(narrow, wide, ("norm", "act"), branches=3)


class StridedDiCE(nn.Module):
    """DiCENet's down-sampling unit (Figure 4): ``(N, C, H, W)`` to ``(N, 2C, ceil(H / 2), ceil(W / 2))``.

    The left branch is a strided depth-wise separable convolution, the right branch average pooling and a DiCE unit;
    the two are concatenated and shuffled.

    Args:
        in_channels: Channels C of the input, at least 4.
        size: Native ``(H, W)`` of the *output*.
        kernel_size: Odd kernel size of the dimension-wise convolution.
        dilation: ``(d_channel, d_width, d_height)``.
        shuffle: Passed to the DiCE unit.
        activation: Name of the activation.

    Raises:
        ValueError: As :class:`DiCE`.
    """

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, int],
        kernel_size: int = 3,
        dilation: Sequence[int] = (1, 1, 1),
        shuffle: bool = True,
        activation: str = "prelu",
    ) -> None:
        super().__init__()
        channels = in_channels
        self.left = nn.Sequential(
            ConvNormAct(channels, channels, 3, stride=2, groups=channels, activation=activation),
            ConvNormAct(channels, channels, 1, activation=activation),
        )
        self.right = nn.Sequential(
            nn.AvgPool2d(3, stride=2, padding=1),
            DiCE(channels, channels, size, kernel_size, dilation, shuffle, activation),
            ConvNormAct(channels, channels, 1, activation=activation),
        )
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(torch.cat((self.left(x), self.right(x)), 1))


class PooledShuffleUnit(nn.Module):
    """DiCENet's down-sampling unit (Figure 4) around any op: ``(N, C, H, W)`` to ``(N, 2C, ceil(H / 2), ceil(W / 2))``.

    As :class:`StridedDiCE`, with another op in the right branch: ops that cannot stride stand behind average pooling.

    Args:
        in_channels: Channels C of the input.
        op: Module that keeps the shape of C channels.
        exit: Module behind the op that keeps it too; by default a point-wise convolution.
        activation: Name of the activation.
    """

    def __init__(
        self, in_channels: int, op: nn.Module, exit: nn.Module | None = None, activation: str = "prelu"
    ) -> None:
        super().__init__()
        channels = in_channels
        self.left = nn.Sequential(
            ConvNormAct(channels, channels, 3, stride=2, groups=channels, activation=activation),
            ConvNormAct(channels, channels, 1, activation=activation),
        )
        self.right = nn.Sequential(
            nn.AvgPool2d(3, stride=2, padding=1),
            op,
            exit if exit is not None else ConvNormAct(channels, channels, 1, activation=activation),
        )
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(torch.cat((self.left(x), self.right(x)), 1))
