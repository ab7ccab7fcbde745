"""Pictures drawn with matplotlib: where a network's costs go, and the paper's Figure 2."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicenas.cost import LAYER_KINDS, BlockProfile, LayerKind
from dicenas.files import atomic_write_bytes
from dicenas.report.metrics import format_number
from dicenas.report.palette import KIND_COLORS

if TYPE_CHECKING:
    from dicenas.paper import PublishedShares

__all__ = ["KIND_LABELS", "check_plot_path", "plot_figure_2", "plot_profile"]

#: Kinds of layers as readers see them.
KIND_LABELS: dict[LayerKind, str] = {
    "standard": "standard convolution",
    "point-wise": "point-wise 1×1",
    "efficient": "depth-wise, dimension-wise, grouped",
    "linear": "linear",
    "other": "norm, activation, the rest",
}

_SUFFIXES = (".png", ".svg", ".pdf")
_INK, _SOFT = "#1d1f23", "#62666d"
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10.0,
    "text.color": _INK,
    "axes.labelcolor": _SOFT,
    "axes.edgecolor": "#c9c9c4",
    "axes.titlecolor": _INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11.0,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "svg.fonttype": "none",
    "svg.hashsalt": "dicenas",
}
_DARK = ("point-wise", "efficient")  # colours that white is readable on
_LEAST_LABELLED_PERCENT = 4.0


def check_plot_path(path: Path) -> None:
    """Check, before anything is computed, that a picture can be drawn into a file.

    Raises:
        ValueError: The suffix is none of ``.png``, ``.svg`` and ``.pdf``, or matplotlib is not installed.
        FileNotFoundError: The folder does not exist.
        IsADirectoryError: The path is a folder.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"{path} should end in one of {', '.join(_SUFFIXES)}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError("pictures need matplotlib: pip install 'dicenas[plots]'") from error


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
            axis.text(0, -1.22, f"{published.net}\n{mine}   (paper: {theirs})", ha="center", va="top", color=_SOFT)
        figure.text(0.02, 0.95, "Share of FLOPs (multiply-adds) by kind of layer, percent", fontsize=12)
        _legend(figure, [kind for kind in LAYER_KINDS if any(ours.get(kind) for _, ours in pies)])

    _draw(draw, path, (10.5, 4.6))


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
    panels: list[tuple[str, float, Callable[[BlockProfile, LayerKind], float]]] = [
        ("FLOPs (multiply-adds), M", 1e-6, lambda block, kind: block.costs[kind].macs),
        ("Parameters, thousand", 1e-3, lambda block, kind: block.costs[kind].params),
    ]
    if all(profile.time_ms is not None for profile in profiles):
        panels.append(("Time, ms", 1.0, lambda block, kind: (block.time_ms or {}).get(kind, 0.0)))

    def draw(figure: Any) -> None:
        height = len(panels)
        grid = figure.add_gridspec(
            height, 2, width_ratios=(1, 4.2), left=0.02, right=0.985, top=0.9, bottom=0.14, wspace=0.1, hspace=0.32
        )
        for row, (name, scale, value) in enumerate(panels):
            table = {kind: [scale * value(profile, kind) for profile in profiles] for kind in LAYER_KINDS}
            total = sum(map(sum, table.values()))
            shares = {kind: 100 * sum(values) / total for kind, values in table.items()}
            _pie(figure.add_subplot(grid[row, 0]), shares)
            axis = figure.add_subplot(grid[row, 1])
            _bars(axis, table, labels if row == height - 1 else [])
            axis.set_title(f"{name}: {format_number(total)} in all")
        figure.text(0.02, 0.955, title, fontsize=13, fontweight="bold")
        _legend(figure, LAYER_KINDS)

    _draw(draw, path, (11.5, 1.5 + 2.4 * len(panels)))


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
                color="white" if kind in _DARK else _INK,
                fontsize=9 if share > 8 else 7.5,
            )


def _bars(axis: Any, table: Mapping[LayerKind, Sequence[float]], labels: Sequence[str]) -> None:
    count = len(next(iter(table.values())))
    bottoms = [0.0] * count
    for kind, values in table.items():
        axis.bar(range(count), values, 0.78, bottom=bottoms, color=KIND_COLORS[kind])
        bottoms = [bottom + value for bottom, value in zip(bottoms, values, strict=True)]
    axis.set_xlim(-0.6, count - 0.4)
    axis.set_xticks(range(count), labels or [""] * count, rotation=90 if count > 12 else 0)
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


def _draw(draw: Callable[[Any], None], path: Path, size_inches: tuple[float, float]) -> None:
    """Draw a figure, and write the file once it is complete."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size_inches, facecolor="white")
        draw(figure)
        buffer = io.BytesIO()
        # Without a date in it, the same costs give the same file.
        metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower())
        figure.savefig(buffer, format=path.suffix.lower().removeprefix("."), dpi=150, metadata=metadata)
    atomic_write_bytes(path, buffer.getvalue())
