from __future__ import annotations

from random import Random
from xml.etree import ElementTree

import pytest

from dicenas.architecture import Architecture
from dicenas.nets import architecture_cost, get_backbone, list_nets, net_architecture
from dicenas.report import draw_architecture
from dicenas.report.palette import op_colors, split_name
from dicenas.space import SpaceSpec


def titles(architecture: Architecture) -> list[str]:
    svg = ElementTree.fromstring(ElementTree.tostring(draw_architecture(architecture)))
    return [title.text or "" for title in svg.iter("title")]


@pytest.mark.parametrize("name", list_nets())
def test_every_block_is_drawn(name: str) -> None:
    architecture = net_architecture(name)
    layout = get_backbone(architecture.backbone).layout(architecture)
    drawn = titles(architecture)
    assert len(drawn) == len(layout.blocks)
    for block, title in zip(layout.blocks, drawn, strict=True):
        assert title.startswith(block.op or block.kind)
        assert f"channels {block.in_channels} → {block.out_channels}" in title


@pytest.mark.parametrize("backbone", ["shufflenetv2", "mobilenetv2"])
def test_shares_of_the_macs_add_up(backbone: str) -> None:
    architecture = SpaceSpec(backbone).random(Random(1))
    shares = [float(title.rsplit(", ", 1)[1].split("%")[0]) for title in titles(architecture)]
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))
    largest = titles(architecture)[shares.index(max(shares))]
    macs = float(largest.rsplit("\n", 1)[1].split(" M")[0]) * 1e6
    assert macs / architecture_cost(architecture).macs == pytest.approx(max(shares) / 100, abs=5e-3)


def test_an_op_that_is_not_registered_here_is_drawn_without_costs() -> None:
    architecture = Architecture("shufflenetv2", 1.0, (("mine_k3", "dice_k3"), ("skip",), ("other",)))
    drawn = titles(architecture)
    assert any(title.startswith("mine_k3") for title in drawn)
    assert not any("MACs" in title for title in drawn)
    stages = (("mine_k3_e6",), *[("dice_k3_e2.5", "pool_e3_relu")] * 4)
    drawn = titles(Architecture("mobilenetv3_small", 1.0, stages))
    assert any(
        title.startswith("mine_k3_e6 in inverted_residual\nchannels 16 → 16\nchannels inside 96") for title in drawn
    )
    assert not any("MACs" in title for title in drawn)


def test_a_backbone_that_is_not_registered_here_shows_its_ops() -> None:
    assert titles(Architecture("mine", 1.0, (("dice_k3",), ("skip", "x_k5")))) == ["dice_k3", "skip", "x_k5"]


def test_the_drawing_stays_within_its_frame() -> None:
    svg = draw_architecture(net_architecture("mobilenetv2_100"))
    left, _, width, height = map(float, svg.attrib["viewBox"].split())
    assert width < 1100
    for rectangle in svg.iter("rect"):
        x, y, w, h = (float(rectangle.attrib[name]) for name in ("x", "y", "width", "height"))
        assert left <= x
        assert x + w <= left + width
        assert y >= 0
        assert y + h <= height


def test_ops_keep_their_colours_and_differ() -> None:
    colors = op_colors(["dice_k3", "separable_k3", "separable_se_k5", "mine_k3", "yours", "skip"])
    assert len(set(colors.values())) == 6
    assert op_colors(["dice_k5"]) == {"dice": colors["dice"]}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("separable_se_k5", ("separable_se", 5, None, None)),
        ("dice_k3_e2.5_relu6", ("dice", 3, "2.5", "relu6")),
        ("mixed_k11_e6", ("mixed", 11, "6", None)),
        ("pool_e6", ("pool", None, "6", None)),
        ("skip", ("skip", None, None, None)),
    ],
)
def test_names_of_blocks_are_taken_apart(name: str, parts: tuple[object, ...]) -> None:
    assert split_name(name) == parts
    assert name.startswith(split_name(name).candidate)
