"""The space of each backbone under a name of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

from dicenas.search_spaces.backbone_space import BackboneSpace, SpaceArguments

__all__ = [
    "NAMED_SPACES",
    "MixNetSpace",
    "MnasNetSpace",
    "MobileNetV1Space",
    "MobileNetV2Space",
    "MobileNetV3LargeSpace",
    "MobileNetV3SmallSpace",
    "ResNetSpace",
    "ShuffleNetV2EdgeNetsSpace",
    "ShuffleNetV2Space",
    "ShuffleNetV2TorchvisionSpace",
]


class ShuffleNetV2Space(BackboneSpace):
    """ShuffleNetV2 units with a candidate op each, and DiCENet's head (DiCENet, arXiv 1906.03516, Figure 4).

    DiCENet is the point with ``dice_k3`` in every block and depths 3, 7, 3. Arguments as
    :class:`~dicenas.search_spaces.BackboneSpace`, without the backbone.
    """

    def __init__(self, **arguments: Unpack[SpaceArguments]) -> None:
        super().__init__("shufflenetv2", **arguments)


class ShuffleNetV2EdgeNetsSpace(BackboneSpace):
    """ShuffleNetV2 units with a candidate op each, and the plain head of EdgeNets' ShuffleNetV2.

    EdgeNets' ShuffleNetV2 is the point with ``separable_k3`` in every block and depths 3, 7, 3. Arguments as
    :class:`~dicenas.search_spaces.BackboneSpace`, without the backbone.
    """

    def __init__(self, **arguments: Unpack[SpaceArguments]) -> None:
        super().__init__("shufflenetv2_edgenets", **arguments)


class ShuffleNetV2TorchvisionSpace(BackboneSpace):
    """ShuffleNetV2 as first published (arXiv 1807.11164) and as torchvision has it, a candidate op in each unit.

    torchvision's ShuffleNetV2 is the point with ``separable_k3`` in every block and depths 3, 7, 3. Arguments as
    :class:`~dicenas.search_spaces.BackboneSpace`, without the backbone.
    """

    def __init__(self, **arguments: Unpack[SpaceArguments]) -> None:
        super().__init__("shufflenetv2_torchvision", **arguments)


class MobileNetV1Space(BackboneSpace):
    """A candidate op in place of each separable convolution of MobileNetV1 (arXiv 1704.04861).

    MobileNetV1 is the point with ``dw_pw_k3`` in every block and its depths. Arguments as
    :class:`~dicenas.search_spaces.BackboneSpace`, without the backbone.
    """

    def __init__(self, **arguments: Unpack[SpaceArguments]) -> None:
        super().__init__("mobilenetv1", **arguments)


class MobileNetV2Space(BackboneSpace):
    """Inverted residuals with a candidate op each (MobileNetV2, arXiv 1801.04381).

    MobileNetV2 is the point with ``separable_k3`` in every block and its depths. Arguments as
    :class:`~dicenas.search_spaces.BackboneSpace`, without the backbone.
    """

    def __init__(self, **arguments: Unpack[SpaceArguments]) -> None:
        super().__init__("mobilenetv2", **arguments)


class MobileNetV3LargeSpace(BackboneSpace):
    """MobileNetV3-Large's table of inverted residuals (arXiv 1905.02244): op, expansion and activation of each block.

    MobileNetV3-Large is the point with its own blocks, where expansions 1, 2.3, 2.5, 3, 4 and 6 are given. Arguments as
    :class:`~dicenas.search_spaces.BackboneSpace`, without the backbone.
    """

    def __init__(self, **arguments: Unpack[SpaceArguments]) -> None:
        super().__init__("mobilenetv3_large", **arguments)


class MobileNetV3SmallSpace(BackboneSpace):
    """MobileNetV3-Small's table of inverted residuals (arXiv 1905.02244): op, expansion and activation of each block.

    MobileNetV3-Small is the point with its own blocks, where expansions 1, 3, 3.67, 4, 4.5 and 6 are given. Arguments
    as :class:`~dicenas.search_spaces.BackboneSpace`, without the backbone.
    """

    def __init__(self, **arguments: Unpack[SpaceArguments]) -> None:
        super().__init__("mobilenetv3_small", **arguments)


class MnasNetSpace(BackboneSpace):
    """MnasNet's table of inverted residuals (arXiv 1807.11626): op, expansion and activation of each block.

    MnasNet-B1 is the point with its own blocks, where expansions 1, 3 and 6 are given. Arguments as
    :class:`~dicenas.search_spaces.BackboneSpace`, without the backbone.
    """

    def __init__(self, **arguments: Unpack[SpaceArguments]) -> None:
        super().__init__("mnasnet", **arguments)


class MixNetSpace(BackboneSpace):
    """MixNet-S's table of inverted residuals (arXiv 1907.09595): op, mixed kernels first, expansion and activation.

    Blocks are those of :class:`~dicenas.nets.MixNet`. Arguments as
    :class:`~dicenas.search_spaces.BackboneSpace`, without the backbone.
    """

    def __init__(self, **arguments: Unpack[SpaceArguments]) -> None:
        super().__init__("mixnet", **arguments)


class ResNetSpace(BackboneSpace):
    """Bottlenecks with a candidate op each, after ResNet-50 (DiCENet, arXiv 1906.03516, Section 3.4).

    Arguments as :class:`~dicenas.search_spaces.BackboneSpace`, without the backbone.
    """

    def __init__(self, **arguments: Unpack[SpaceArguments]) -> None:
        super().__init__("resnet", **arguments)


#: The named space of each backbone; the others have :class:`~dicenas.search_spaces.BackboneSpace` alone.
NAMED_SPACES: dict[str, Callable[..., BackboneSpace]] = {
    "mixnet": MixNetSpace,
    "mnasnet": MnasNetSpace,
    "mobilenetv1": MobileNetV1Space,
    "mobilenetv2": MobileNetV2Space,
    "mobilenetv3_large": MobileNetV3LargeSpace,
    "mobilenetv3_small": MobileNetV3SmallSpace,
    "resnet": ResNetSpace,
    "shufflenetv2": ShuffleNetV2Space,
    "shufflenetv2_edgenets": ShuffleNetV2EdgeNetsSpace,
    "shufflenetv2_torchvision": ShuffleNetV2TorchvisionSpace,
}
