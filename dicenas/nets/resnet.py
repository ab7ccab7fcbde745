"""ResNet (arXiv 1512.03385) whose bottlenecks hold a candidate op, as DiCENet's paper compares them (Section 3.4)."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from dicenas.architecture import Architecture, size_pair
from dicenas.nets.backbone import Backbone, BlockSpec, Layout, register_backbone, stage_behind
from dicenas.nets.heads import PooledClassifier, pooled_classifier_cost
from dicenas.nets.stems import build_stem, pooled_stem, stem_cost
from dicenas.ops import (
    CandidateArguments,
    ConvNormAct,
    Cost,
    conv_norm_act_cost,
    make_divisible,
    parse_candidate,
)

__all__ = ["BottleneckUnit", "ResNet", "resnet_architecture"]

#: Channels inside the bottlenecks at width 1 and stride of each stage, and the depths of ResNet-50 (Table 1).
_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
_RESNET50_DEPTHS = (3, 4, 6, 3)
_EXPANSION = 4
#: DiCENet's tables need widths down to 0.16, where multiples of 8 are too coarse.
_DIVISOR = 2


class BottleneckUnit(nn.Module):
    """ResNet's bottleneck: ``(N, C_in, H, W)`` to ``(N, C_out, H / stride, W / stride)``.

    The entry, a point-wise convolution, reduces the channels; the candidate op filters and expands them linearly; the
    input, or its projection, is added, and the sum rectified.

    Args:
        entry: Module that maps the block's input to the op's, activated.
        op: Module that maps the entry's output to the block's, linear at its end; it has the block's stride.
        shortcut: Module that brings the input to the output's shape; the identity where it has that already.
    """

    def __init__(self, entry: nn.Module, op: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.entry = entry
        self.op = op
        self.shortcut = shortcut
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.op(self.entry(x)) + self.shortcut(x))


class ResNet(Backbone):
    """ResNet with bottlenecks of point-wise convolution and candidate op.

    With ``separable_k3`` in every block and depths 3, 4, 6, 3 it is ResNet-50 with each 3 x 3 convolution depth-wise,
    and a stem of one 3 x 3 convolution. The stride of a stage's first block stands in its op. ``skip`` leaves a block
    out.

    An op that brings a down-sampling unit of its own for ShuffleNetV2, as the DiCE unit does, pools there in front of
    all other layers. So it does here: a strided block is average pooling and a bottleneck of stride 1. (DiCENet's Table
    2 bears this out: DimConv in place of the depth-wise convolution *saves* multiply-adds there, since the first
    point-wise convolution then sees a quarter of the pixels.)

    An op that brings an entry of its own puts it in place of *all* point-wise convolutions of the block (Table 3): in
    the shortcut too, behind average pooling where that is strided.
    """

    name = "resnet"
    summary = "bottlenecks with a candidate op each; ResNet-50 made depth-wise is a point of it"
    activation = "relu"
    leading_blocks = 0
    skip_removes_block = True
    widths = (0.16, 0.25, 0.37)
    depths = ((2, 3), (2, 3, 4), (4, 5, 6), (2, 3))

    def layout(self, architecture: Architecture) -> Layout:
        stem = pooled_stem(architecture, make_divisible(64 * architecture.width, _DIVISOR))
        last, stages = stem, []
        for ops, (base_channels, stride) in zip(architecture.stages, _STAGES, strict=True):
            hidden = make_divisible(base_channels * architecture.width, _DIVISOR)
            blocks = stage_behind(last, "bottleneck", ops, _EXPANSION * hidden, stride)
            stages.append(tuple(dataclasses.replace(block, hidden_channels=hidden) for block in blocks))
            last = stages[-1][-1]
        head = BlockSpec("head", last.out_channels, architecture.num_classes, last.size, last.size)
        return Layout(stem, tuple(stages), head)

    def op_arguments(self, block: BlockSpec) -> CandidateArguments:
        # `skip` stands for the whole block, any other op for what follows the reduction.
        in_channels, kernel_size = block.hidden_channels, 1
        if block.op is not None:
            op, kernel_size = parse_candidate(block.op)
            in_channels = block.in_channels if op.identity else block.hidden_channels
            if self._pools_first(block):
                block = _behind_pooling(block)
        return CandidateArguments(
            in_channels,
            block.out_channels,
            block.stride,
            block.size,
            kernel_size,
            self.activation,
            False,
            block.in_size,
        )

    def build_block(self, block: BlockSpec) -> nn.Module:
        if block.kind.startswith("stem"):
            return build_stem(block, self.activation)
        if block.kind == "head":
            return PooledClassifier(block.in_channels, block.out_channels)
        assert block.op is not None
        if self._pools_first(block):
            return nn.Sequential(nn.AvgPool2d(3, stride=2, padding=1), self.build_block(_behind_pooling(block)))
        op = self._build_op(block, final_activation=False)
        if self.is_identity(block.op):
            return op
        entry = self._build_entry(block, block.in_channels, block.hidden_channels)
        return BottleneckUnit(entry, op, self._build_shortcut(block))

    def _pools_first(self, block: BlockSpec) -> bool:
        assert block.op is not None
        return block.stride == 2 and parse_candidate(block.op)[0].downsample is not None

    def _build_shortcut(self, block: BlockSpec) -> nn.Module:
        if block.stride == 1 and block.in_channels == block.out_channels:
            return nn.Identity()
        assert block.op is not None
        entry = parse_candidate(block.op)[0].entry
        if entry is None:
            return ConvNormAct(block.in_channels, block.out_channels, 1, block.stride, activation=None)
        projection = entry.build(block.in_channels, block.out_channels, block.size, self.activation)
        return projection if block.stride == 1 else nn.Sequential(nn.AvgPool2d(3, stride=2, padding=1), projection)

    def block_cost(self, block: BlockSpec) -> Cost:
        if block.kind.startswith("stem"):
            return stem_cost(block, self.activation)
        if block.kind == "head":
            return pooled_classifier_cost(block.in_channels, block.out_channels)
        assert block.op is not None
        if self._pools_first(block):
            return self.block_cost(_behind_pooling(block))
        if self.is_identity(block.op):
            return self._op_cost(block)
        entry = self._entry_cost(block, block.in_channels, block.hidden_channels)
        return entry + self._op_cost(block) + self._shortcut_cost(block)

    def _shortcut_cost(self, block: BlockSpec) -> Cost:
        if block.stride == 1 and block.in_channels == block.out_channels:
            return Cost()
        assert block.op is not None
        entry = parse_candidate(block.op)[0].entry
        if entry is None:
            return conv_norm_act_cost(block.in_channels, block.out_channels, 1, block.size, activation=None)
        return entry.cost(block.in_channels, block.out_channels, block.size, self.activation)


def _behind_pooling(block: BlockSpec) -> BlockSpec:
    """Return what a strided block is behind its pooling."""
    return dataclasses.replace(block, in_size=block.size, stride=1)


register_backbone(ResNet())


def resnet_architecture(
    width: float = 0.25,
    num_classes: int = 1000,
    image_size: int | tuple[int, int] = 224,
    op: str = "separable_k3",
    depths: tuple[int, int, int, int] = _RESNET50_DEPTHS,
) -> Architecture:
    """Return ResNet with depth-wise bottlenecks as a point of the family.

    At width 0.25 it has the 142 million multiply-adds of DiCENet's Tables 1 to 3.

    Args:
        width: Width multiplier; 1 has ResNet-50's channels.
        num_classes: Number of classes.
        image_size: Native size of the image, an int or ``(H, W)``.
        op: Candidate op of every block.
        depths: Blocks of each stage.
    """
    stages = tuple((op,) * depth for depth in depths)
    return Architecture("resnet", width, stages, image_size=size_pair(image_size), num_classes=num_classes)
