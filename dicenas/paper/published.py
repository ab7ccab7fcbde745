"""Figures of the paper beside which networks by name stand: Tables 4 and 8, and Figure 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["FIGURE_2", "TABLE_4", "TABLE_8", "PublishedPoint", "PublishedScale", "PublishedShares"]


@dataclass(frozen=True)
class PublishedPoint:
    """A network of Table 4.

    Attributes:
        family: Name of its row in the paper.
        top1_percent: The paper's ImageNet accuracy.
        macs_millions: The paper's FLOPs, which are multiply-adds.
        net: Name of our network; None where we have none.
        image_size: Image size that the paper's figures belong to.
    """

    family: str
    top1_percent: float
    macs_millions: float
    net: str | None = None
    image_size: int = 224


@dataclass(frozen=True)
class PublishedScale:
    """A column of Table 8 at one scale.

    Attributes:
        scale: Scale of DiCENet.
        channels: Channels of the first convolution, the three blocks and the grouped linear layer.
        macs_millions: The paper's FLOPs (multiply-adds), where the table gives them.
    """

    scale: float
    channels: tuple[float, float, float, float, float]
    macs_millions: float | None


@dataclass(frozen=True)
class PublishedShares:
    """A pie of Figure 2.

    Attributes:
        network: Name in the paper.
        net: Name of our network.
        shares_percent: Share of multiply-adds of the figure's kinds of layers.
    """

    network: str
    net: str
    shares_percent: Mapping[Literal["standard", "point-wise", "efficient"], float]


# MobileNets, MNASNet and FBNet were published for several widths and image sizes; the pairs of accuracy and FLOPs in
# the table are those of the width and the image size given here.
#: Table 4 of the paper, row by row.
TABLE_4: tuple[PublishedPoint, ...] = (
    PublishedPoint("MobileNet", 41.5, 14, "mobilenetv1_025", 128),
    PublishedPoint("MobileNet", 56.3, 49, "mobilenetv1_050", 128),
    PublishedPoint("MobileNet", 59.1, 77, "mobilenetv1_050", 160),
    PublishedPoint("MobileNet", 61.7, 110, "mobilenetv1_050", 192),
    PublishedPoint("MobileNet", 65.3, 162, "mobilenetv1_075", 160),
    PublishedPoint("MobileNet", 68.4, 317, "mobilenetv1_075"),
    PublishedPoint("MobileNetv2", 45.5, 11, "mobilenetv2_035", 96),
    PublishedPoint("MobileNetv2", 61.0, 50, "mobilenetv2_050", 160),
    PublishedPoint("MobileNetv2", 63.9, 71, "mobilenetv2_050", 192),
    PublishedPoint("MobileNetv2", 66.4, 107, "mobilenetv2_075", 160),
    PublishedPoint("MobileNetv2", 68.7, 153, "mobilenetv2_075", 192),
    PublishedPoint("MobileNetv2", 71.8, 300, "mobilenetv2_100"),
    PublishedPoint("ESPNetv2", 66.1, 86),
    PublishedPoint("ESPNetv2", 67.9, 124),
    PublishedPoint("ESPNetv2", 72.1, 284),
    PublishedPoint("CondenseNet", 71.0, 274),
    PublishedPoint("ShuffleNetv2", 39.1, 8.0, "shufflenetv2_edgenets_010"),
    PublishedPoint("ShuffleNetv2", 59.7, 41, "shufflenetv2_edgenets_050"),
    PublishedPoint("ShuffleNetv2", 68.1, 142, "shufflenetv2_edgenets_100"),
    PublishedPoint("ShuffleNetv2", 71.8, 292, "shufflenetv2_edgenets_150"),
    PublishedPoint("MNASNet", 62.4, 76),
    PublishedPoint("MNASNet", 67.3, 103, "mnasnet_100", 128),
    PublishedPoint("MNASNet", 74.0, 317, "mnasnet_100"),
    PublishedPoint("FBNet", 65.3, 72),
    PublishedPoint("FBNet", 67.0, 92),
    PublishedPoint("FBNet", 74.1, 295),
    PublishedPoint("MobileNetv3", 67.4, 66, "mobilenetv3_small"),
    PublishedPoint("MobileNetv3", 75.2, 219, "mobilenetv3_large"),
    PublishedPoint("MixNet", 75.8, 256),
    PublishedPoint("DiCENet-E150-B512", 40.6, 6.5, "dicenet_010"),
    PublishedPoint("DiCENet-E150-B512", 46.2, 14, "dicenet_020"),
    PublishedPoint("DiCENet-E150-B512", 62.8, 46, "dicenet_075"),
    PublishedPoint("DiCENet-E150-B512", 66.5, 70, "dicenet_100"),
    PublishedPoint("DiCENet-E150-B512", 67.8, 98, "dicenet_125"),
    PublishedPoint("DiCENet-E150-B512", 69.5, 139, "dicenet_150"),
    PublishedPoint("DiCENet-E150-B512", 72.9, 298, "dicenet_240"),
    PublishedPoint("DiCENet-E300-B2048", 43.1, 6.5, "dicenet_010"),
    PublishedPoint("DiCENet-E300-B2048", 48.2, 14, "dicenet_020"),
    PublishedPoint("DiCENet-E300-B2048", 65.1, 46, "dicenet_075"),
    PublishedPoint("DiCENet-E300-B2048", 68.5, 70, "dicenet_100"),
    PublishedPoint("DiCENet-E300-B2048", 69.3, 98, "dicenet_125"),
    PublishedPoint("DiCENet-E300-B2048", 72.0, 139, "dicenet_150"),
    PublishedPoint("DiCENet-E300-B2048", 75.7, 298, "dicenet_240"),
)


def _between(scale: float, macs_millions: float | None = None) -> PublishedScale:
    return PublishedScale(scale, (24, 116 * scale, 232 * scale, 464 * scale, 1024), macs_millions)


#: Table 8 of the paper: scales from 0.5 to 2.0 share a column, which gives the FLOPs of the first and the last.
TABLE_8: tuple[PublishedScale, ...] = (
    PublishedScale(0.1, (8, 16, 32, 64, 512), 6.5),
    PublishedScale(0.2, (16, 32, 64, 128, 1024), 12),
    _between(0.5, 24),
    _between(0.75),
    _between(1.0),
    _between(1.25),
    _between(1.5),
    _between(1.75),
    _between(2.0, 240),
    PublishedScale(2.4, (24, 278, 556, 1112, 1280), 298),
)

#: Figure 2 of the paper. Which networks these are it does not say; at these scales the shares are nearest.
FIGURE_2: tuple[PublishedShares, ...] = (
    PublishedShares("ShuffleNetv2", "shufflenetv2_edgenets_100", {"standard": 6, "point-wise": 91, "efficient": 3}),
    PublishedShares("MobileNetv2", "mobilenetv2_100", {"standard": 4, "point-wise": 89, "efficient": 7}),
    PublishedShares("DiCENet", "dicenet_150", {"standard": 6, "point-wise": 79, "efficient": 15}),
)
