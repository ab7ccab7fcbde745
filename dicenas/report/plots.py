"""Pictures drawn with matplotlib: where a network's costs go, and the paper's Figure 2."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicenas.cost import LAYER_KINDS, BlockProfile, LayerKind
from dicenas.report.figures import INK, SOFT, draw_figure
from dicenas.report.metrics import format_number
from dicenas.report.palette import KIND_COLORS

if TYPE_CHECKING:
    from dicenas.paper import PublishedShares

__all__ = ["KIND_LABELS", "plot_figure_2", "plot_profile"]

#: Kinds of layers as readers see them.
KIND_LABELS: dict[LayerKind, str] = {
    "standard": "standard convolution",
    "point-wise": "point-wise 1×1",
    "efficient": "depth-wise, dimension-wise, grouped",
    "linear": "linear",
    "other": "norm, activation, the rest",
}

_DARK = ("point-wise", "efficient")  # colours that white is readable on
_LEAST_LABELLED_PERCENT = 5.5


def plot_figure_2(pies: Sequence[tuple[PublishedShares, Mapping[LayerKind, float]]], path: Path) -> None:
    """Draw the paper's Figure 2: shares of multiply-adds by kind of layer, the paper's figures below each pie.

    Args:
        pies: The paper's shares of each network, and ours in percent.
        path: File to write; its suffix is the format.
    """

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, len(pies))
        figure.subplots_adjust(left=0.02, right=0.98, top=0.84, bottom=0.2, wspace=0.05)
        for axis, (published, ours) in zip(axes, pies, strict=True):
            _pie(axis, ours)
            axis.set_title(published.network, fontsize=13, fontweight="bold", loc="center", pad=2)
            theirs = " / ".join(f"{share:g}" for share in published.shares_percent.values())
            mine = " / ".join(f"{ours.get(kind, 0):.0f}" for kind in published.shares_percent)
            axis.text(0, -1.22, f"{published.net}\n{mine}   (paper: {theirs})", ha="center", va="top", color=SOFT)
        figure.text(0.02, 0.95, "Share of FLOPs (multiply-adds) by kind of layer, percent", fontsize=12)
        _legend(figure, [kind for kind in LAYER_KINDS if any(ours.get(kind) for _, ours in pies)])

    draw_figure(draw, path, (10.5, 4.6))


def plot_profile(title: str, labels: Sequence[str], profiles: Sequence[BlockProfile], path: Path) -> None:
    """Draw the costs of a network: a pie by kind of layer and bars block by block, for each of the costs.

    Args:
        title: Line above the picture.
        labels: Name of each block.
        profiles: The blocks.
        path: File to write; its suffix is the format.

    Raises:
        ValueError: There are more or fewer labels than blocks.
    """
    if len(labels) != len(profiles):
        raise ValueError(f"{len(labels)} labels for {len(profiles)} blocks: each block needs one")
    panels: list[tuple[str, dict[LayerKind, list[float]]]] = [
        ("FLOPs (multiply-adds), M", {k: [block.costs[k].macs / 1e6 for block in profiles] for k in LAYER_KINDS}),
        ("Parameters, thousand", {k: [block.costs[k].params / 1e3 for block in profiles] for k in LAYER_KINDS}),
    ]
    times = [block.time_ms for block in profiles if block.time_ms is not None]
    kinds = [block.times_ms for block in profiles if block.times_ms is not None]
    if kinds:
        panels.append(("Time, ms", {kind: [block[kind] for block in kinds] for kind in LAYER_KINDS}))
    height = len(panels) + (1 if times and not kinds else 0)

    def draw(figure: Any) -> None:
        grid = figure.add_gridspec(
            height, 2, width_ratios=(1, 4.2), left=0.02, right=0.985, top=0.9, bottom=0.14, wspace=0.1, hspace=0.32
        )
        for row, (name, values) in enumerate(panels):
            total = sum(map(sum, values.values()))
            _pie(figure.add_subplot(grid[row, 0]), {kind: 100 * sum(parts) / total for kind, parts in values.items()})
            axis = figure.add_subplot(grid[row, 1])
            _bars(axis, [(KIND_COLORS[kind], parts) for kind, parts in values.items()])
            axis.set_title(f"{name}: {format_number(total)} in all")
        if height > len(panels):
            axis = figure.add_subplot(grid[-1, 1])
            _bars(axis, [(SOFT, times)])
            axis.set_title(f"Time, ms: {format_number(sum(times))} in all, kinds of layers not told apart")
        axis.set_xticks(range(len(labels)), labels, rotation=90 if len(labels) > 12 else 0)
        figure.text(0.02, 0.955, title, fontsize=13, fontweight="bold")
        _legend(figure, LAYER_KINDS)

    draw_figure(draw, path, (11.5, 1.5 + 2.4 * height))


def _pie(axis: Any, shares_percent: Mapping[LayerKind, float]) -> None:
    shown = {kind: share for kind, share in shares_percent.items() if share > 0}
    wedges, _ = axis.pie(
        list(shown.values()),
        colors=[KIND_COLORS[kind] for kind in shown],
        startangle=90,
        counterclock=False,
        wedgeprops={"edgecolor": "white", "linewidth": 1.2},
    )
    for wedge, (kind, share) in zip(wedges, shown.items(), strict=True):
        if share >= _LEAST_LABELLED_PERCENT:
            angle = math.radians((wedge.theta1 + wedge.theta2) / 2)
            distance = 0.6 if share > 12 else 0.76
            axis.text(
                distance * math.cos(angle),
                distance * math.sin(angle),
                f"{share:.0f} %",
                ha="center",
                va="center",
                color="white" if kind in _DARK else INK,
                fontsize=9 if share > 8 else 7.5,
            )


def _bars(axis: Any, stacks: Sequence[tuple[str, Sequence[float]]]) -> None:
    """Draw a bar for each block, stacked of parts with a colour each."""
    count = len(stacks[0][1])
    bottoms = [0.0] * count
    for color, values in stacks:
        axis.bar(range(count), values, 0.78, bottom=bottoms, color=color)
        bottoms = [bottom + value for bottom, value in zip(bottoms, values, strict=True)]
    axis.set_xlim(-0.6, count - 0.4)
    axis.set_xticks(range(count), [""] * count)
    axis.tick_params(length=0)
    axis.grid(axis="y", color="#e8e8e4", linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)


def _legend(figure: Any, kinds: Sequence[LayerKind]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=KIND_COLORS[kind], label=KIND_LABELS[kind]) for kind in kinds]
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.005),
        ncols=len(handles),
        frameon=False,
        handlelength=1,
        fontsize=10,
    )
