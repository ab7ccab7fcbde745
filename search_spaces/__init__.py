"""NNI model spaces over the backbones, imported as ``dicenas.search_spaces``."""

from dicenas.search_spaces.backbone_space import BackboneSpace, BlockChoice, SpaceArguments, make_space
from dicenas.search_spaces.named import (
    MixNetSpace,
    MnasNetSpace,
    MobileNetV1Space,
    MobileNetV2Space,
    MobileNetV3LargeSpace,
    MobileNetV3SmallSpace,
    ResNetSpace,
    ShuffleNetV2EdgeNetsSpace,
    ShuffleNetV2Space,
    ShuffleNetV2TorchvisionSpace,
)

__all__ = [
    "BackboneSpace",
    "BlockChoice",
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
    "SpaceArguments",
    "make_space",
]
