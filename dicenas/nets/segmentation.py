"""Semantic segmentation with DiCENet's encoder, as published with it (arXiv 1906.03516, Section 4.3; EdgeNets)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dicenas.nets.backbone import get_backbone
from dicenas.nets.shufflenetv2 import dicenet_architecture
from dicenas.ops import ChannelShuffle, ConvNormAct, EfficientPWConv

__all__ = ["EfficientPyramidPool", "SegmentationNetwork", "dicenet_segmentation"]

#: Sizes of the pyramid's branches, relative to the map.
_PYRAMID = (2.0, 1.5, 1.0, 0.5, 0.1)
_SMALLEST = 5  # rows and columns of a branch, at least

#: Channels of the decoder's maps, coarse to fine; the last map has one channel a class.
_DECODER_CHANNELS = (64, 48, 32)
_MOST_HIDDEN_CHANNELS = 16


def _norm_act(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.PReLU(channels))


def _grow(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, list(size), mode="bilinear", align_corners=True)


class EfficientPyramidPool(nn.Module):
    """EdgeNets' efficient pyramid pooling: ``(N, C_in, H, W)`` to ``(N, C_out, H, W)``.

    The projected map is resized to 2, 1.5, 1, 0.5 and 0.1 times its size (5 rows and columns at least), convolved
    depth-wise there, and resized back: growing is bilinear with aligned corners, shrinking adaptive average pooling.
    A grouped convolution merges the five maps channel by channel.

    Args:
        in_channels: Channels of the input.
        hidden_channels: Channels of each branch.
        out_channels: Channels of the output.
        final_activation: Whether normalisation and activation follow; otherwise the last convolution has a bias.
    """

    def __init__(
        self, in_channels: int, hidden_channels: int, out_channels: int, final_activation: bool = True
    ) -> None:
        super().__init__()
        channels, stacked = hidden_channels, len(_PYRAMID) * hidden_channels
        self.project = ConvNormAct(in_channels, channels, 1)
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False) for _ in _PYRAMID
        )
        self.norm = nn.BatchNorm2d(stacked)
        self.act = nn.PReLU(stacked)
        self.shuffle = ChannelShuffle(len(_PYRAMID))
        self.merge = ConvNormAct(stacked, channels, 3, groups=channels)
        self.expand = nn.Conv2d(channels, out_channels, 1, bias=not final_activation)
        self.final = _norm_act(out_channels) if final_activation else nn.Identity()
        for conv in (*self.branches, self.expand):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out")
        if self.expand.bias is not None:
            nn.init.zeros_(self.expand.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(x)
        height, width = x.shape[2:]
        maps = []
        for scale, branch in zip(_PYRAMID, self.branches, strict=True):
            # In floating point, as published: 0.1 of 70 rows are 8.
            size = (max(_SMALLEST, math.ceil(height * scale)), max(_SMALLEST, math.ceil(width * scale)))
            if scale > 1:
                maps.append(F.adaptive_avg_pool2d(branch(_grow(x, size)), (height, width)))
            elif scale < 1:
                maps.append(_grow(branch(F.adaptive_avg_pool2d(x, size)), (height, width)))
            else:
                maps.append(branch(x))
        x = self.shuffle(self.act(self.norm(torch.cat(maps, 1))))
        out: Tensor = self.final(self.expand(self.merge(x)))
        return out


class SegmentationNetwork(nn.Module):
    """DiCENet's encoder with a pyramid pooling decoder: ``(N, 3, H, W)`` to logits ``(N, num_classes, H, W)``.

    The encoder's modules, ``stem`` and ``stages``, are those of the classification network up to a sixteenth of the
    image's size, and have its names: ``net.load_state_dict(classifier.state_dict(), strict=False)`` starts from a
    trained classifier. The decoder doubles the size three times, each time adding the encoder's map of that size,
    and its logits are resized to the image's. Images of any size work.

    Args:
        scale, num_classes, image_size: See :func:`dicenet_segmentation`.

    Attributes:
        scale: Width of the encoder.
        num_classes: Classes.
        image_size: Native ``(H, W)`` of the encoder's DiCE units.
    """

    def __init__(self, scale: float, num_classes: int, image_size: int | tuple[int, int] = 224) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes {num_classes} is below 2: the decoder has half as many channels inside")
        architecture = dicenet_architecture(scale, image_size=image_size)
        backbone = get_backbone(architecture.backbone)
        layout = backbone.checked_layout(architecture)
        self.scale = scale
        self.num_classes = num_classes
        self.image_size = architecture.image_size
        self.stem = backbone.build_block(layout.stem)
        stages = layout.stages[:2]  # the last one, at a thirty-second of the size, is too coarse for a mask
        self.stages = nn.Sequential(
            *(nn.Sequential(*(backbone.build_block(block) for block in stage)) for stage in stages)
        )
        hidden = min(num_classes // 2, _MOST_HIDDEN_CHANNELS)
        skips = (stages[0][-1].out_channels, layout.stem.out_channels, layout.stem.out_channels)
        self.bottom = EfficientPyramidPool(stages[1][-1].out_channels, hidden, _DECODER_CHANNELS[0])
        self.laterals = nn.ModuleList(
            EfficientPWConv(skip, channels) for skip, channels in zip(skips, _DECODER_CHANNELS, strict=True)
        )
        self.merges = nn.ModuleList(_norm_act(channels) for channels in _DECODER_CHANNELS)
        outs = (*_DECODER_CHANNELS[1:], num_classes)
        self.pyramids = nn.ModuleList(
            EfficientPyramidPool(channels, hidden, out, final_activation=position < len(outs))
            for position, (channels, out) in enumerate(zip(_DECODER_CHANNELS, outs, strict=True), 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        skips = []
        # The stem is a convolution and a pooling layer, and the decoder takes the map of either.
        for module in (*self.stem.children(), *self.stages):
            x = module(x)
            skips.append(x)
        x = self.bottom(skips.pop())
        for lateral, merge, pyramid in zip(self.laterals, self.merges, self.pyramids, strict=True):
            skip = lateral(skips.pop())
            x = pyramid(merge(skip + _grow(x, skip.shape[2:])))
        return _grow(x, size)


def dicenet_segmentation(
    scale: float, num_classes: int, image_size: int | tuple[int, int] = 224
) -> SegmentationNetwork:
    """Build DiCENet's segmentation network with fresh weights.

    Args:
        scale: One of DiCENet's published scales, the keys of :data:`dicenas.nets.shufflenetv2.CHANNELS`.
        num_classes: Number of classes, at least 2: 21 for PASCAL VOC and 20 for Cityscapes, background included.
        image_size: Native size of the encoder's DiCE units, an int or ``(H, W)``. That of all published weights is
            224, whatever the size of the images that they were trained on.

    Raises:
        ValueError: The scale is not published, or there are fewer than two classes.
    """
    return SegmentationNetwork(scale, num_classes, image_size)
