"""ShuffleNetV2 (arXiv 1807.11164) without DiCENet's head, in its two published layouts.

EdgeNets' layout and torchvision's are different networks of one idea. The units are those of
:mod:`dicenas.nets.shufflenetv2`; what differs is said in the two classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import nn

from dicenas.architecture import Architecture, size_pair
from dicenas.nets.backbone import BlockSpec, Network, build, register_backbone
from dicenas.nets.heads import LinearClassifier, linear_classifier_cost
from dicenas.nets.shufflenetv2 import CHANNELS, ShuffleNetV2
from dicenas.ops import Cost, Downsample
from dicenas.spelling import did_you_mean

__all__ = [
    "EDGENETS_CHANNELS",
    "LAYOUTS",
    "TORCHVISION_CHANNELS",
    "ShuffleNetV2EdgeNets",
    "ShuffleNetV2Torchvision",
    "shufflenetv2",
    "shufflenetv2_architecture",
]

#: Channels by width: stem, the first stage's input, the three stages, the head's convolution. DiCENet took them over,
#: all but the head at width 2.
EDGENETS_CHANNELS: dict[float, tuple[int, int, int, int, int, int]] = {
    **{width: CHANNELS[width] for width in (0.1, 0.5, 1.0, 1.5)},
    2.0: (*CHANNELS[2.0][:-1], 2048),
}
TORCHVISION_CHANNELS = {width: EDGENETS_CHANNELS[width] for width in (0.5, 1.0, 1.5, 2.0)}

#: DiCENet's Table 3 widens ShuffleNetV2 four times: its stages, where stem and head are the same at all widths.
_FOUR_TIMES = (24, 24, 464, 928, 1856, 1024)

#: Depths of the stages in both, without the down-sampling units.
_PUBLISHED_DEPTHS = (3, 7, 3)


class ShuffleNetV2EdgeNets(ShuffleNetV2):
    """ShuffleNetV2 as EdgeNets has it: DiCENet's units, and a head of a point-wise convolution and a linear layer.

    A stage's strided unit doubles the channels of its input, and the unit behind it widens them to the stage's. The
    published network is the point with ``separable_k3`` everywhere and depths 3, 7, 3.
    """

    name = "shufflenetv2_edgenets"
    summary = "ShuffleNetV2 units with a candidate op each; EdgeNets' ShuffleNetV2 is a point of it"
    widths = (0.5, 1.0, 1.5)
    channels: ClassVar[Mapping[float, tuple[int, ...]]] = {**EDGENETS_CHANNELS, 4.0: _FOUR_TIMES}
    unpublished_widths = (4.0,)

    def _dropout(self, width: float) -> float:
        return 0.2 if width > 1 else 0.0

    def _build_head(self, block: BlockSpec) -> nn.Module:
        return LinearClassifier(
            block.in_channels, block.hidden_channels, block.out_channels, block.dropout, self.activation
        )

    def _head_cost(self, block: BlockSpec) -> Cost:
        return linear_classifier_cost(
            block.in_channels, block.hidden_channels, block.out_channels, block.size, self.activation
        )


class ShuffleNetV2Torchvision(ShuffleNetV2EdgeNets):
    """ShuffleNetV2 as torchvision has it, and as it was first published (arXiv 1807.11164, Table 5).

    A stage's strided unit gives the channels of the stage at once, half of them from each branch; activations are
    ReLU. An op that brings a down-sampling unit of its own stands in the right branch here, as any other does. The
    published network is the point with ``separable_k3`` everywhere and depths 3, 7, 3.
    """

    name = "shufflenetv2_torchvision"
    summary = "ShuffleNetV2 units with a candidate op each; torchvision's ShuffleNetV2 is a point of it"
    activation = "relu"
    channels: ClassVar[Mapping[float, tuple[int, ...]]] = TORCHVISION_CHANNELS

    def _strided_channels(self, in_channels: int, stage_channels: int) -> int:
        return stage_channels

    def _dropout(self, width: float) -> float:
        return 0.0

    def _downsample(self, block: BlockSpec) -> Downsample | None:
        return None


register_backbone(ShuffleNetV2EdgeNets())
register_backbone(ShuffleNetV2Torchvision())

#: Published layouts, and the backbone of each.
LAYOUTS = {"edgenets": ShuffleNetV2EdgeNets.name, "torchvision": ShuffleNetV2Torchvision.name}


def shufflenetv2_architecture(
    width: float = 1.0,
    layout: Literal["edgenets", "torchvision"] = "edgenets",
    num_classes: int = 1000,
    image_size: int | tuple[int, int] = 224,
) -> Architecture:
    """Return a published ShuffleNetV2 as a point of its family; arguments as :func:`shufflenetv2`."""
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}{did_you_mean(layout, LAYOUTS)} (known: {', '.join(LAYOUTS)})")
    stages = tuple(("separable_k3",) * (depth + 1) for depth in _PUBLISHED_DEPTHS)
    return Architecture(LAYOUTS[layout], width, stages, image_size=size_pair(image_size), num_classes=num_classes)


def shufflenetv2(
    width: float = 1.0,
    layout: Literal["edgenets", "torchvision"] = "edgenets",
    num_classes: int = 1000,
    image_size: int | tuple[int, int] = 224,
) -> Network:
    """Build a published ShuffleNetV2 with fresh weights.

    The two layouts are different networks: 2.284 and 2.279 million parameters at width 1, other units, activations
    and weights (:class:`ShuffleNetV2EdgeNets`, :class:`ShuffleNetV2Torchvision`).

    Args:
        width: A published width: 0.1, 0.5, 1.0, 1.5 or 2.0; torchvision's layout has no 0.1.
        layout: ``"edgenets"`` or ``"torchvision"``.
        num_classes: Number of classes.
        image_size: Native size of the image, an int or ``(H, W)``. Images of other sizes work too.

    Raises:
        ValueError: The layout is unknown, or the width is not published in it.
    """
    return build(shufflenetv2_architecture(width, layout, num_classes, image_size))
