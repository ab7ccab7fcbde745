"""Pictures of latency tables: what the blocks take, and predictions beside measurements."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from dicenas.cost.check import TableCheck
from dicenas.cost.table import LatencyTable
from dicenas.files import atomic_write_text
from dicenas.report.figures import SOFT, draw_figure, render
from dicenas.report.palette import op_colors, split_name

__all__ = ["CHECK_SUFFIXES", "METHOD_LABELS", "plot_check", "plot_table"]

#: Suffixes of the pictures of a check: an HTML page has the picture and a table of the networks.
CHECK_SUFFIXES = (".png", ".svg", ".pdf", ".html")
#: What predicts, as readers see it.
METHOD_LABELS = {
    "table": "table, calibrated",
    "block_sum": "plain sum of blocks",
    "macs": "FLOPs (MACs) alone",
}
_BAND = "#e6efe9"


def plot_table(table: LatencyTable, path: Path) -> None:
    """Draw the time of each block of a table: a row for each place, a mark for each op.

    Args:
        table: The table.
        path: File to write; its suffix is the format.
    """
    rows: dict[str, list[tuple[str, float]]] = {}
    blocks_ms = table.blocks_ms()
    # From large maps to small ones, as an image passes them.
    for block in sorted(blocks_ms, key=lambda b: (-b.in_size[0], -b.size[0], b.kind, b.in_channels, b.out_channels)):
        time_ms = blocks_ms[block]
        place = f"{block.kind}, {block.in_channels}→{block.out_channels}, {block.size[0]}×{block.size[1]}"
        rows.setdefault(place, []).append((str(block.op or block.kind), time_ms))
    ops = sorted({split_name(name)[0] for marks in rows.values() for name, _ in marks})
    colors = op_colors(ops)

    height = 1.2 + 0.22 * len(rows)

    def draw(figure: Any) -> None:
        from matplotlib.ticker import FuncFormatter

        axis = figure.add_axes((0.27, 0.6 / height, 0.71, 1 - 0.75 / height))
        for y, marks in enumerate(reversed(list(rows.values()))):
            for name, time_ms in marks:
                op = split_name(name)[0]
                axis.plot(time_ms, y, "o", color=colors.get(op, SOFT), markersize=5, alpha=0.85)
        axis.set_yticks(range(len(rows)), reversed(list(rows)), fontsize=8)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda time_ms, _: f"{time_ms:g}"))
        axis.set_xlabel("ms a block")
        axis.grid(axis="x", color="#e8e8e4", linewidth=0.8)
        axis.set_ylim(-0.8, len(rows) - 0.2)
        for op in ops:
            axis.plot([], [], "o", color=colors.get(op, SOFT), label=op)
        axis.legend(frameon=False, loc="lower right", fontsize=9)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)

    draw_figure(draw, path, (9.5, height))


def plot_check(check: TableCheck, device: str, path: Path) -> None:
    """Draw predictions over measurements, the table's beside the baselines'.

    Args:
        check: The comparison.
        device: What was measured on, for the title.
        path: File to write; one of :data:`CHECK_SUFFIXES`.
    """
    size = (11.0, 4.6)
    if path.suffix.lower() == ".html":
        svg = render(lambda figure: _scatters(check, device, figure), "svg", size).decode()
        atomic_write_text(path, _page(check, device, svg))
    else:
        draw_figure(lambda figure: _scatters(check, device, figure), path, size)


def _scatters(check: TableCheck, device: str, figure: Any) -> None:
    measured = [network.measured_ms for network in check.networks]
    low, high = 0.92 * min(measured), 1.08 * max(measured)
    axes = figure.subplots(1, len(METHOD_LABELS), sharey=True)
    figure.subplots_adjust(left=0.065, right=0.985, top=0.74, bottom=0.13, wspace=0.07)
    figure.text(0.012, 0.935, f"Predicted and measured latency of {len(measured)} unseen networks", fontsize=13)
    figure.text(0.012, 0.885, device, fontsize=8.5, color=SOFT)
    for axis, (name, label) in zip(axes, METHOD_LABELS.items(), strict=True):
        found = check.methods[name]
        predicted = [network.predicted_ms[name] for network in check.networks]
        axis.fill_between([low, high], [0.9 * low, 0.9 * high], [1.1 * low, 1.1 * high], color=_BAND, linewidth=0)
        axis.plot([low, high], [low, high], color=SOFT, linewidth=0.8)
        axis.plot(measured, predicted, "o", color="#0072b2" if name == "table" else "#8a8f98", markersize=4.5)
        axis.set_title(label, pad=18)
        axis.text(
            0,
            1.02,
            f"within 10 %: {found.within_10_percent:.0%}   within 5 %: {found.within_5_percent:.0%}   "
            f"τ {found.kendall_tau:.2f}",
            transform=axis.transAxes,
            fontsize=9,
            color=SOFT,
        )
        axis.set_xlim(low, high)
        axis.set_ylim(low, high)
        axis.set_xlabel("measured, ms")
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0].set_ylabel("predicted, ms (band: ±10 %)")


def _page(check: TableCheck, device: str, svg: str) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    networks = sorted(check.networks, key=lambda network: network.measured_ms)
    lines = [
        row(
            [
                network.architecture.hash[:8],
                f"{network.measured_ms:.3g}",
                *(f"{network.predicted_ms[name]:.3g}" for name in METHOD_LABELS),
                f"{network.predicted_ms['table'] / network.measured_ms - 1:+.1%}",
                f"{network.architecture.width:g}",
                " | ".join(" ".join(stage) for stage in network.architecture.stages),
            ],
            "td",
        )
        for network in networks
    ]
    heads = ["network", "measured, ms", *METHOD_LABELS.values(), "error of the table", "width", "blocks"]
    style = (
        "body{font:14px/1.5 system-ui,sans-serif;margin:2rem;color:#1d1f23}svg{max-width:100%;height:auto}"
        "table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
        "th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #e8e8e4}"
        "th:last-child,td:last-child{text-align:left;font-size:12px;color:#62666d}"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Latency table, checked</title>'
        f"<style>{style}</style></head><body>{svg[svg.index('<svg') :]}"
        f"<table><thead>{row(heads, 'th')}</thead><tbody>{''.join(lines)}</tbody></table>"
        f"<p>{escape(device)}</p></body></html>\n"
    )
