"""ShuffleNetV2 with a candidate op in each unit, and DiCENet, the point of it where every op is the DiCE unit.

Units as published with DiCENet (arXiv 1906.03516, Figure 4; EdgeNets), after ShuffleNetV2 (arXiv 1807.11164).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from dicenas.architecture import Architecture, size_pair
from dicenas.nets.backbone import Backbone, BlockSpec, Layout, Network, build, half, register_backbone
from dicenas.nets.stems import build_stem, pooled_stem, stem_cost
from dicenas.ops import (
    CandidateArguments,
    ChannelShuffle,
    ConvNormAct,
    Cost,
    Downsample,
    SeparableConv,
    conv_cost,
    parse_candidate,
)
from dicenas.ops.candidates import separable_cost
from dicenas.ops.layers import init_convolutions

__all__ = [
    "CHANNELS",
    "GroupedClassifier",
    "ShuffleNetV2",
    "ShuffleUnit",
    "StridedShuffleUnit",
    "dicenet",
    "dicenet_architecture",
]

#: Channels by width: stem, the first stage's input, the three stages, the head (DiCENet, Table 4; EdgeNets).
CHANNELS: dict[float, tuple[int, int, int, int, int, int]] = {
    0.1: (8, 8, 16, 32, 64, 512),
    0.2: (16, 16, 32, 64, 128, 1024),
    0.5: (24, 24, 48, 96, 192, 1024),
    0.75: (24, 24, 86, 172, 344, 1024),
    1.0: (24, 24, 116, 232, 464, 1024),
    1.25: (24, 24, 144, 288, 576, 1024),
    1.5: (24, 24, 176, 352, 704, 1024),
    1.75: (24, 24, 210, 420, 840, 1024),
    2.0: (24, 24, 244, 488, 976, 1024),
    2.4: (24, 24, 278, 556, 1112, 1280),
}

_HEAD_GROUPS = 4


class ShuffleUnit(nn.Module):
    """ShuffleNetV2's basic unit: ``(N, C_in, H, W)`` to ``(N, C_out, H, W)``.

    Half of the channels pass untouched; the others go through a point-wise convolution and the candidate op. Both
    are concatenated and shuffled.

    Args:
        in_channels: Channels of the input; ``round(in_channels / 2)`` of them pass.
        out_channels: Channels of the output, even.
        op: Module that keeps the shape of ``out_channels - round(in_channels / 2)`` channels.
        activation: Name of the activation behind the point-wise convolution.
        entry: Module in place of the point-wise convolution.

    Raises:
        ValueError: ``out_channels`` is odd: two groups cannot be shuffled.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        op: nn.Module,
        activation: str = "prelu",
        entry: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if out_channels % 2:
            raise ValueError(f"out_channels {out_channels} is odd; a shuffle of two groups needs an even number")
        passed = round(in_channels / 2)
        self.split = (passed, in_channels - passed)
        self.pointwise = (
            ConvNormAct(in_channels - passed, out_channels - passed, 1, activation=activation)
            if entry is None
            else entry
        )
        self.op = op
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        passed, x = x.split(self.split, 1)
        return self.shuffle(torch.cat((passed, self.op(self.pointwise(x))), 1))


class StridedShuffleUnit(nn.Module):
    """ShuffleNetV2's down-sampling unit: ``(N, C_in, H, W)`` to ``(N, C_out, ceil(H / 2), ceil(W / 2))``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, even; each branch gives half of them.
        op: Module of stride 2 that keeps ``out_channels / 2`` channels, the right branch's behind a point-wise
            convolution.
        activation: Name of the activation.
        entry: Module in place of that point-wise convolution.

    Raises:
        ValueError: ``out_channels`` is odd: two branches cannot share them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        op: nn.Module,
        activation: str = "prelu",
        entry: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if out_channels % 2:
            raise ValueError(f"out_channels {out_channels} is odd; two branches need an even number")
        channels = out_channels // 2
        self.left = SeparableConv(in_channels, channels, stride=2, activation=activation)
        self.right = nn.Sequential(
            ConvNormAct(in_channels, channels, 1, activation=activation) if entry is None else entry, op
        )
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(torch.cat((self.left(x), self.right(x)), 1))


class GroupedClassifier(nn.Module):
    """DiCENet's head: global average pooling, a grouped linear layer, dropout and the classifier.

    Args:
        in_channels: Channels of the input ``(N, C, H, W)``, divisible by 4.
        hidden_channels: Features behind the grouped layer.
        num_classes: Classes; the output is ``(N, num_classes)``.
        dropout: Dropout probability.
    """

    def __init__(self, in_channels: int, hidden_channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Conv2d(in_channels, hidden_channels, 1, groups=_HEAD_GROUPS, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(hidden_channels, num_classes, 1)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.expand(x.mean((2, 3), keepdim=True))
        x = self.classifier(self.dropout(x))
        return x.flatten(1)


class ShuffleNetV2(Backbone):
    """ShuffleNetV2 in the layout published with DiCENet, with DiCENet's head.

    A stage is a down-sampling unit and, counted by its depth, basic units. DiCENet is the point with ``dice_k3``
    everywhere and depths 3, 7, 3.
    """

    name = "shufflenetv2"
    summary = "ShuffleNetV2 units with a candidate op each, DiCENet's head; DiCENet is a point of it"
    activation = "prelu"
    leading_blocks = 1
    skip_removes_block = False
    widths = (0.5, 0.75, 1.0)
    depths = ((1, 2, 3), (3, 5, 7), (1, 2, 3))
    channels: ClassVar[Mapping[float, tuple[int, ...]]] = CHANNELS
    #: Widths that it has besides the published ones.
    unpublished_widths: ClassVar[tuple[float, ...]] = ()

    def check_width(self, width: float) -> None:
        if width not in self.channels:
            known = ", ".join(str(known) for known in self.channels if known not in self.unpublished_widths)
            raise ValueError(f"{self.name} has no width {width}; published widths: {known}")

    def layout(self, architecture: Architecture) -> Layout:
        stem_channels, channels, *stage_channels, head_channels = self.channels[architecture.width]
        stem = pooled_stem(architecture, stem_channels)
        size, stages = stem.size, []
        for ops, out_channels in zip(architecture.stages, stage_channels, strict=True):
            in_size, size = size, half(size)
            strided = self._strided_channels(channels, out_channels)
            blocks = [BlockSpec("strided_unit", channels, strided, in_size, size, stride=2, op=ops[0])]
            channels = strided
            for op in ops[1:]:
                blocks.append(BlockSpec("unit", channels, out_channels, size, size, op=op))
                channels = out_channels
            stages.append(tuple(blocks))
        head = BlockSpec(
            "head",
            channels,
            architecture.num_classes,
            size,
            size,
            hidden_channels=head_channels,
            dropout=self._dropout(architecture.width),
        )
        return Layout(stem, tuple(stages), head)

    def _strided_channels(self, in_channels: int, stage_channels: int) -> int:
        """Return what a stage's down-sampling unit gives."""
        return 2 * in_channels

    def _dropout(self, width: float) -> float:
        """Return the dropout of the head at a width."""
        return 0.2 if width > 1 else 0.1

    def _downsample(self, block: BlockSpec) -> Downsample | None:
        """Return the whole down-sampling unit that the op of a block brings, where the family takes it."""
        assert block.op is not None
        return parse_candidate(block.op)[0].downsample

    def op_arguments(self, block: BlockSpec) -> CandidateArguments:
        channels = block.out_channels // 2
        if block.kind == "unit":
            channels = block.out_channels - round(block.in_channels / 2)
        kernel_size = parse_candidate(block.op)[1] if block.op else 1
        return CandidateArguments(
            channels, channels, block.stride, block.size, kernel_size, self.activation, True, block.in_size
        )

    def build_block(self, block: BlockSpec) -> nn.Module:
        if block.kind.startswith("stem"):
            return build_stem(block, self.activation)
        if block.kind == "head":
            return self._build_head(block)
        assert block.op is not None
        if block.kind == "unit":
            op = self._build_op(block, final_activation=True)
            passed = round(block.in_channels / 2)
            entry = self._own_entry(block, block.in_channels - passed, block.out_channels - passed)
            return ShuffleUnit(block.in_channels, block.out_channels, op, self.activation, entry)
        if (unit := self._downsample(block)) is not None:
            return unit.build(block.in_channels, block.size, parse_candidate(block.op)[1], self.activation)
        op = self._build_op(block, final_activation=True)
        entry = self._own_entry(block, block.in_channels, block.out_channels // 2)
        return StridedShuffleUnit(block.in_channels, block.out_channels, op, self.activation, entry)

    def block_cost(self, block: BlockSpec) -> Cost:
        if block.kind.startswith("stem"):
            return stem_cost(block, self.activation)
        if block.kind == "head":
            return self._head_cost(block)
        assert block.op is not None
        if block.kind == "unit":
            passed = round(block.in_channels / 2)
            entry = self._entry_cost(block, block.in_channels - passed, block.out_channels - passed)
            return entry + self._op_cost(block)
        if (unit := self._downsample(block)) is not None:
            return unit.cost(block.in_channels, block.size, parse_candidate(block.op)[1], self.activation)
        channels = block.out_channels // 2
        left = separable_cost(CandidateArguments(block.in_channels, channels, 2, block.size, 3, self.activation, True))
        return left + self._entry_cost(block, block.in_channels, channels) + self._op_cost(block)

    def _build_head(self, block: BlockSpec) -> nn.Module:
        return GroupedClassifier(block.in_channels, block.hidden_channels, block.out_channels, block.dropout)

    def _head_cost(self, block: BlockSpec) -> Cost:
        expand = conv_cost(block.in_channels, block.hidden_channels, 1, (1, 1), groups=_HEAD_GROUPS)
        return expand + conv_cost(block.hidden_channels, block.out_channels, 1, (1, 1), bias=True)


register_backbone(ShuffleNetV2())


def dicenet_architecture(
    scale: float, num_classes: int = 1000, image_size: int | tuple[int, int] = 224
) -> Architecture:
    """Return DiCENet (arXiv 1906.03516) at a published scale as a point of the ShuffleNetV2 family."""
    stages = tuple(("dice_k3",) * (depth + 1) for depth in (3, 7, 3))
    return Architecture("shufflenetv2", scale, stages, image_size=size_pair(image_size), num_classes=num_classes)


def dicenet(
    scale: float,
    num_classes: int = 1000,
    image_size: int | tuple[int, int] = 224,
    dropout: float | None = None,
) -> Network:
    """Build DiCENet (arXiv 1906.03516) with fresh weights.

    Args:
        scale: One of the published scales, the keys of :data:`CHANNELS`.
        num_classes: Number of classes.
        image_size: Native size of the image, an int or ``(H, W)``; sizes that 32 does not divide are rounded up
            stage by stage. Images of other sizes work too.
        dropout: Dropout probability in the head; by default the published one: 0.1 up to scale 1, 0.2 above.

    Raises:
        ValueError: The scale is not published, or the dropout is no probability.
    """
    network = build(dicenet_architecture(scale, num_classes, image_size))
    if dropout is not None:
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout {dropout} should be a probability from 0 to 1")
        assert isinstance(network.head, GroupedClassifier)
        network.head.dropout = nn.Dropout(dropout)
    return network
