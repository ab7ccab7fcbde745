"""NNI model spaces over the backbones, imported as ``dicenas.search_spaces``."""

from dicenas.search_spaces.backbone_space import BackboneSpace, BlockChoice, SpaceArguments, make_space
from dicenas.search_spaces.named import MobileNetV2Space, ShuffleNetV2Space

__all__ = ["BackboneSpace", "BlockChoice", "MobileNetV2Space", "ShuffleNetV2Space", "SpaceArguments", "make_space"]
