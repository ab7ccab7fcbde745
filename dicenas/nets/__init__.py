"""Backbones, the networks built from architectures, and the published ones among them."""

from dicenas.nets import edgenets, torchvision_weights
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
from dicenas.nets.checkpoints import read_network
from dicenas.nets.fuse import fuse_for_inference
from dicenas.nets.fused import FusedDiCE
from dicenas.nets.inverted_residual import InvertedResidual, InvertedResidualBackbone
from dicenas.nets.mobilenetv1 import MobileNetV1, mobilenetv1_architecture
from dicenas.nets.mobilenetv2 import MobileNetV2, mobilenetv2_architecture
from dicenas.nets.resnet import BottleneckUnit, ResNet, resnet_architecture
from dicenas.nets.searched import (
    MixNet,
    MnasNet,
    MobileNetV3Large,
    MobileNetV3Small,
    NamedBlocksBackbone,
    mixnet_architecture,
    mnasnet_architecture,
    mobilenetv3_architecture,
)
from dicenas.nets.segmentation import SegmentationNetwork, dicenet_segmentation
from dicenas.nets.shufflenetv2 import (
    ShuffleNetV2,
    ShuffleUnit,
    StridedShuffleUnit,
    dicenet,
    dicenet_architecture,
)
from dicenas.nets.shufflenetv2_layouts import (
    ShuffleNetV2EdgeNets,
    ShuffleNetV2Torchvision,
    shufflenetv2,
    shufflenetv2_architecture,
)
from dicenas.nets.zoo import list_nets, net_architecture

__all__ = [
    "Backbone",
    "BlockSpec",
    "BottleneckUnit",
    "FusedDiCE",
    "InvertedResidual",
    "InvertedResidualBackbone",
    "Layout",
    "MixNet",
    "MnasNet",
    "MobileNetV1",
    "MobileNetV2",
    "MobileNetV3Large",
    "MobileNetV3Small",
    "NamedBlocksBackbone",
    "Network",
    "ResNet",
    "SegmentationNetwork",
    "ShuffleNetV2",
    "ShuffleNetV2EdgeNets",
    "ShuffleNetV2Torchvision",
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
    "mixnet_architecture",
    "mnasnet_architecture",
    "mobilenetv1_architecture",
    "mobilenetv2_architecture",
    "mobilenetv3_architecture",
    "net_architecture",
    "read_network",
    "register_backbone",
    "resnet_architecture",
    "shufflenetv2",
    "shufflenetv2_architecture",
    "torchvision_weights",
]
