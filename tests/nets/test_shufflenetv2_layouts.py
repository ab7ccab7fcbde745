"""ShuffleNetV2 in EdgeNets' and in torchvision's layout; their numbers are held in the tests that read weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dicenas.nets import StridedShuffleUnit, build, shufflenetv2, shufflenetv2_architecture
from dicenas.nets.shufflenetv2_layouts import EDGENETS_CHANNELS, TORCHVISION_CHANNELS
from dicenas.ops import DiCE, StridedDiCE
from dicenas.space import SpaceSpec


def channels_of(layout: str, width: float) -> list[list[int]]:
    """Channels behind each unit, stage by stage."""
    net = shufflenetv2(width, layout, num_classes=5, image_size=64).eval()  # type: ignore[arg-type]
    channels: list[list[int]] = []
    x = net.stem(torch.randn(1, 3, 64, 64))
    for stage in net.stages:
        channels.append([])
        for unit in stage:
            x = unit(x)
            channels[-1].append(x.shape[1])
    return channels


def test_where_a_stage_widens() -> None:
    # EdgeNets' strided unit doubles, its second unit widens; torchvision's strided unit does both at once.
    assert channels_of("edgenets", 1.0) == [[48] + [116] * 3, [232] * 8, [464] * 4]
    assert channels_of("torchvision", 1.0) == [[116] * 4, [232] * 8, [464] * 4]


def test_activations() -> None:
    kinds = {layout: {type(m) for m in shufflenetv2(0.5, layout).modules()} for layout in ("edgenets", "torchvision")}
    assert nn.PReLU in kinds["edgenets"]
    assert nn.ReLU not in kinds["edgenets"]
    assert nn.ReLU in kinds["torchvision"]
    assert nn.PReLU not in kinds["torchvision"]


def test_dice_stands_in_the_right_branch_of_torchvision_s_strided_unit() -> None:
    stages = (("dice_k3", "dice_k5"), ("separable_k3",) * 2, ("dice_k3",) * 2)
    for layout, kind in (("edgenets", StridedDiCE), ("torchvision", StridedShuffleUnit)):
        architecture = shufflenetv2_architecture(0.5, layout, 5, 64).replace(stages=stages)  # type: ignore[arg-type]
        net = build(architecture)
        assert type(net.stages[0][0]) is kind
        assert net(torch.randn(2, 3, 64, 64)).shape == (2, 5)
        if layout == "torchvision":
            pool, unit = net.stages[0][0].right[1]
            assert isinstance(pool, nn.AvgPool2d)
            assert isinstance(unit, DiCE)
            assert unit.dim_conv.size == (8, 8)


@pytest.mark.parametrize(
    ("layout", "width", "dropout"),
    [("edgenets", 0.5, 0.0), ("edgenets", 1.0, 0.0), ("edgenets", 1.5, 0.2), ("torchvision", 2.0, 0.0)],
)
def test_published_dropout(layout: str, width: float, dropout: float) -> None:
    with torch.device("meta"):
        assert shufflenetv2(width, layout).head.dropout.p == dropout  # type: ignore[arg-type]


def test_published_networks_are_points_of_their_spaces() -> None:
    assert shufflenetv2_architecture(1.0, "edgenets") in SpaceSpec("shufflenetv2_edgenets")
    assert shufflenetv2_architecture(1.0, "torchvision") in SpaceSpec("shufflenetv2_torchvision")


def test_channels_can_be_shuffled() -> None:
    for channels in (*EDGENETS_CHANNELS.values(), *TORCHVISION_CHANNELS.values()):
        assert all(number % 2 == 0 for number in channels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, "torchvison"), "unknown layout 'torchvison'; did you mean 'torchvision'.*known: edgenets, torchvision"),
        (
            (0.75, "edgenets"),
            r"shufflenetv2_edgenets has no width 0\.75; published widths: 0\.1, 0\.5, 1\.0, 1\.5, 2\.0$",
        ),
        ((0.1, "torchvision"), r"shufflenetv2_torchvision has no width 0\.1; published widths: 0\.5, 1\.0, 1\.5, 2\.0"),
    ],
)
def test_what_was_not_published(arguments: tuple[float, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shufflenetv2(*arguments)  # type: ignore[arg-type]
