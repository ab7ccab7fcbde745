"""Backbones, the networks built from architectures, and the published ones among them."""

from dicenas.nets import edgenets
from dicenas.nets.backbone import (
    Backbone,
    BlockSpec,
    Layout,
    Network,
    architecture_cost,
    build,
    get_backbone,
    list_backbones,
    register_backbone,
)
from dicenas.nets.fuse import FusedDiCE, fuse_for_inference
from dicenas.nets.mobilenetv2 import InvertedResidual, MobileNetV2, mobilenetv2_architecture
from dicenas.nets.segmentation import SegmentationNetwork, dicenet_segmentation
from dicenas.nets.shufflenetv2 import (
    ShuffleNetV2,
    ShuffleUnit,
    StridedShuffleUnit,
    dicenet,
    dicenet_architecture,
)
from dicenas.nets.zoo import list_nets, net_architecture

__all__ = [
    "Backbone",
    "BlockSpec",
    "FusedDiCE",
    "InvertedResidual",
    "Layout",
    "MobileNetV2",
    "Network",
    "SegmentationNetwork",
    "ShuffleNetV2",
    "ShuffleUnit",
    "StridedShuffleUnit",
    "architecture_cost",
    "build",
    "dicenet",
    "dicenet_architecture",
    "dicenet_segmentation",
    "edgenets",
    "fuse_for_inference",
    "get_backbone",
    "list_backbones",
    "list_nets",
    "mobilenetv2_architecture",
    "net_architecture",
    "register_backbone",
]
