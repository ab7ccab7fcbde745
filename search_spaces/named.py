"""The space of each backbone under a name of its own."""

from __future__ import annotations

from typing import Unpack

from dicenas.search_spaces.backbone_space import BackboneSpace, SpaceArguments

__all__ = ["NAMED_SPACES", "MobileNetV2Space", "ShuffleNetV2Space"]


class ShuffleNetV2Space(BackboneSpace):
    """ShuffleNetV2 units with a candidate op each, and DiCENet's head (DiCENet, arXiv 1906.03516, Figure 4).

    DiCENet is the point with ``dice_k3`` in every block and depths 3, 7, 3. Arguments as
    :class:`~dicenas.search_spaces.BackboneSpace`, without the backbone.
    """

    def __init__(self, **arguments: Unpack[SpaceArguments]) -> None:
        super().__init__("shufflenetv2", **arguments)


class MobileNetV2Space(BackboneSpace):
    """Inverted residuals with a candidate op each (MobileNetV2, arXiv 1801.04381).

    MobileNetV2 is the point with ``separable_k3`` in every block and its depths. Arguments as
    :class:`~dicenas.search_spaces.BackboneSpace`, without the backbone.
    """

    def __init__(self, **arguments: Unpack[SpaceArguments]) -> None:
        super().__init__("mobilenetv2", **arguments)


#: The named space of each backbone; the others have :class:`~dicenas.search_spaces.BackboneSpace` alone.
NAMED_SPACES: dict[str, type[ShuffleNetV2Space] | type[MobileNetV2Space]] = {
    "shufflenetv2": ShuffleNetV2Space,
    "mobilenetv2": MobileNetV2Space,
}
