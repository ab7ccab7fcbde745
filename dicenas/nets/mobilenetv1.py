"""MobileNetV1 (arXiv 1704.04861) with a candidate op in place of each separable convolution."""

from __future__ import annotations

from torch import nn

from dicenas.architecture import Architecture, size_pair
from dicenas.nets.backbone import Backbone, BlockSpec, Layout, register_backbone, stage_behind
from dicenas.nets.heads import PooledClassifier, pooled_classifier_cost
from dicenas.nets.stems import build_stem, conv_stem, stem_cost
from dicenas.ops import CandidateArguments, Cost, make_divisible, parse_candidate

__all__ = ["MobileNetV1", "mobilenetv1_architecture"]

#: Channels at width 1 and stride of each stage (Table 1), and the published depths.
_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2), (1024, 2))
_PUBLISHED_DEPTHS = (1, 2, 2, 6, 2)


class MobileNetV1(Backbone):
    """MobileNetV1; the published network is the point with ``dw_pw_k3`` everywhere and its depths.

    A block is a candidate op with an activation behind it, and the first block of a stage sets its channels and size.
    The ``imagenet`` stem is a convolution of stride 2, the ``small`` one of stride 1. ``skip`` leaves a block out.
    """

    name = "mobilenetv1"
    summary = "a candidate op a block, without residuals; MobileNetV1 is a point of it"
    activation = "relu"
    leading_blocks = 0
    skip_removes_block = True
    widths = (0.25, 0.5, 0.75, 1.0)
    depths = ((1,), (1, 2), (1, 2), (4, 5, 6), (1, 2))
    ops = ("dw_pw", "dw_pw_se", "dice", "skip")

    def layout(self, architecture: Architecture) -> Layout:
        stem = conv_stem(architecture, make_divisible(32 * architecture.width))
        last, stages = stem, []
        for ops, (base_channels, stride) in zip(architecture.stages, _STAGES, strict=True):
            stages.append(stage_behind(last, "block", ops, make_divisible(base_channels * architecture.width), stride))
            last = stages[-1][-1]
        head = BlockSpec("head", last.out_channels, architecture.num_classes, last.size, last.size)
        return Layout(stem, tuple(stages), head)

    def op_arguments(self, block: BlockSpec) -> CandidateArguments:
        kernel_size = parse_candidate(block.op)[1] if block.op else 1
        return CandidateArguments(
            block.in_channels,
            block.out_channels,
            block.stride,
            block.size,
            kernel_size,
            self.activation,
            True,
            block.in_size,
        )

    def build_block(self, block: BlockSpec) -> nn.Module:
        if block.kind == "stem":
            return build_stem(block, self.activation)
        if block.kind == "head":
            return PooledClassifier(block.in_channels, block.out_channels)
        return self._build_op(block, final_activation=True)

    def block_cost(self, block: BlockSpec) -> Cost:
        if block.kind == "stem":
            return stem_cost(block, self.activation)
        if block.kind == "head":
            return pooled_classifier_cost(block.in_channels, block.out_channels)
        return self._op_cost(block)


register_backbone(MobileNetV1())


def mobilenetv1_architecture(
    width: float = 1.0, num_classes: int = 1000, image_size: int | tuple[int, int] = 224
) -> Architecture:
    """Return the published MobileNetV1 as a point of the family."""
    stages = tuple(("dw_pw_k3",) * depth for depth in _PUBLISHED_DEPTHS)
    return Architecture("mobilenetv1", width, stages, image_size=size_pair(image_size), num_classes=num_classes)
