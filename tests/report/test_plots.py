from __future__ import annotations

from pathlib import Path

import pytest

from dicenas.cost import LAYER_KINDS, BlockProfile, LatencySettings, profile_blocks
from dicenas.nets import build, dicenet_architecture
from dicenas.ops import Cost
from dicenas.report.figures import check_plot_path
from dicenas.report.palette import KIND_COLORS
from dicenas.report.plots import KIND_LABELS, plot_profile


def test_every_kind_has_a_label_and_a_colour_of_its_own() -> None:
    assert tuple(KIND_LABELS) == tuple(KIND_COLORS) == LAYER_KINDS
    assert len(set(KIND_COLORS.values())) == len(set(KIND_LABELS.values())) == len(LAYER_KINDS)


@pytest.mark.parametrize("runtime", ["kernels", "fused", "compiled"])
def test_times_are_drawn_as_far_as_they_were_taken(runtime: str, tmp_path: Path) -> None:
    net = build(dicenet_architecture(0.1, 10, 32))
    profiles = profile_blocks(net, ["stem", "stages", "head"], (3, 32, 32), LatencySettings(runtime=runtime))
    plot_profile("small", ["stem", "stages", "head"], profiles, tmp_path / "small.svg")
    text = (tmp_path / "small.svg").read_text(encoding="utf-8")
    assert "FLOPs" in text
    assert ("Time, ms" in text) == (runtime != "compiled")
    assert ("not told apart" in text) == (runtime == "fused")


def test_the_same_costs_give_the_same_file(tmp_path: Path) -> None:
    profile = BlockProfile("0", {kind: Cost(10, 3) for kind in LAYER_KINDS}, 2.5, dict.fromkeys(LAYER_KINDS, 0.5))
    for name in ("one.svg", "two.svg"):
        plot_profile("twice", ["block"], [profile], tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_a_failing_plot_leaves_the_previous_file(tmp_path: Path) -> None:
    file = tmp_path / "plot.png"
    file.write_text("previous", encoding="utf-8")
    with pytest.raises(ValueError, match="1 labels for 2 blocks"):
        plot_profile("", ["0"], [BlockProfile("0", {kind: Cost(1, 1) for kind in LAYER_KINDS})] * 2, file)
    assert file.read_text(encoding="utf-8") == "previous"
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]


@pytest.mark.parametrize("suffix", ["", ".gif", ".png.txt"])
def test_suffixes_that_cannot_be_drawn(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"should end in one of \.png, \.svg, \.pdf"):
        check_plot_path(tmp_path / f"plot{suffix}")
