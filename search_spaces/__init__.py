"""NNI model spaces over the backbones, imported as ``dicenas.search_spaces``."""

from dicenas.search_spaces.backbone_space import BackboneSpace, MobileNetV2Space, ShuffleNetV2Space, make_space

__all__ = ["BackboneSpace", "MobileNetV2Space", "ShuffleNetV2Space", "make_space"]
