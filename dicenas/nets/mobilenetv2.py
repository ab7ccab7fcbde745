"""MobileNetV2 (arXiv 1801.04381) with a candidate op in each inverted residual."""

from __future__ import annotations

from dicenas.architecture import Architecture
from dicenas.nets.backbone import register_backbone
from dicenas.nets.inverted_residual import InvertedResidualBackbone, StagePlan
from dicenas.ops import make_divisible

__all__ = ["MobileNetV2", "mobilenetv2_architecture"]


def _stage(expansion: int, channels: int, stride: int, published_depth: int, *depths: int) -> StagePlan:
    return StagePlan(channels, stride, ("separable_k3",) * published_depth, depths, expansion)


class MobileNetV2(InvertedResidualBackbone):
    """MobileNetV2 (Table 2); the published network is the point with ``separable_k3`` everywhere and its depths.

    The ``imagenet`` stem is a convolution of stride 2, the ``small`` one of stride 1. ``skip`` leaves a block out.
    """

    name = "mobilenetv2"
    summary = "inverted residuals with a candidate op each; MobileNetV2 is a point of it"
    activation = "relu6"
    stem_channels = 32
    head_channels = 1280
    stages = (
        _stage(1, 16, 1, 1, 1),
        _stage(6, 24, 2, 2, 1, 2),
        _stage(6, 32, 2, 3, 2, 3),
        _stage(6, 64, 2, 4, 2, 3, 4),
        _stage(6, 96, 1, 3, 2, 3),
        _stage(6, 160, 2, 3, 2, 3),
        _stage(6, 320, 1, 1, 1),
    )

    def _head_features(self, width: float) -> int:
        # Wider networks have more, narrower ones as many.
        return make_divisible(self.head_channels * max(1.0, width))


_MOBILENETV2 = MobileNetV2()
register_backbone(_MOBILENETV2)


def mobilenetv2_architecture(
    width: float = 1.0, num_classes: int = 1000, image_size: int | tuple[int, int] = 224
) -> Architecture:
    """Return the published MobileNetV2 as a point of the family."""
    return _MOBILENETV2.published(width, num_classes, image_size)
