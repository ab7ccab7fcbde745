"""Stems that several backbones share: from the image to the first stage's input."""

from __future__ import annotations

from torch import nn

from dicenas.architecture import Architecture
from dicenas.nets.backbone import BlockSpec, half
from dicenas.ops import ConvNormAct, Cost, conv_norm_act_cost

__all__ = ["build_stem", "conv_stem", "pooled_stem", "stem_cost"]


def conv_stem(architecture: Architecture, channels: int) -> BlockSpec:
    """Return the stem of the MobileNets, a convolution: stride 2 in the ``imagenet`` stem, 1 in the ``small`` one."""
    image = architecture.image_size
    stride, size = (2, half(image)) if architecture.stem == "imagenet" else (1, image)
    return BlockSpec("stem", architecture.in_channels, channels, image, size, stride)


def pooled_stem(architecture: Architecture, channels: int) -> BlockSpec:
    """Return the stem of ResNet and ShuffleNetV2: as :func:`conv_stem`, max pooling behind the ``imagenet`` one."""
    image = architecture.image_size
    stride, size = (4, half(half(image))) if architecture.stem == "imagenet" else (1, image)
    return BlockSpec(f"stem_{architecture.stem}", architecture.in_channels, channels, image, size, stride)


def build_stem(block: BlockSpec, activation: str) -> nn.Module:
    """Build the module of either stem."""
    conv = ConvNormAct(block.in_channels, block.out_channels, 3, min(block.stride, 2), activation=activation)
    if block.kind == "stem":
        return conv
    pooling = [nn.MaxPool2d(3, stride=2, padding=1)] if block.kind == "stem_imagenet" else []
    return nn.Sequential(conv, *pooling)


def stem_cost(block: BlockSpec, activation: str) -> Cost:
    """Return the cost of either stem in closed form."""
    size = block.in_size if block.stride == 1 else half(block.in_size)  # of the convolution's output
    return conv_norm_act_cost(block.in_channels, block.out_channels, 3, size, activation=activation)
