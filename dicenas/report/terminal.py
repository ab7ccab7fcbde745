"""Tables in the terminal: drawn with rich on a screen, plain aligned text in a pipe or a log."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TextIO

from dicenas.final import FinalTrial
from dicenas.pareto import Direction
from dicenas.report.metrics import get_metric
from dicenas.report.palette import split_candidate
from dicenas.runs import TrialRecord

__all__ = ["print_final", "print_front", "print_table"]

#: Metrics shown beside the objectives, where the trials have them.
_SHOWN = ("accuracy", "latency_ms", "macs", "params")


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    align: str,
    title: str | None = None,
    file: TextIO | None = None,
) -> None:
    """Print a table.

    Args:
        columns: Headings.
        rows: Texts, one for each column.
        align: ``l`` (left) or ``r`` (right) for each column.
        title: Line above the table.
        file: Where to print; standard output by default.
    """
    file = sys.stdout if file is None else file
    if file.isatty() and importlib.util.find_spec("rich"):
        _print_rich(columns, rows, align, title, file)
        return
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    lines = [title] if title else []
    for row in (columns, ["-" * width for width in widths], *rows):
        cells = [
            text.ljust(width) if side == "l" else text.rjust(width)
            for text, width, side in zip(row, widths, align, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    print("\n".join(lines), file=file)


def _print_rich(
    columns: Sequence[str], rows: Sequence[Sequence[str]], align: str, title: str | None, file: TextIO
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title) if title else None, title_justify="left", box=box.SIMPLE_HEAD)
    for column, side in zip(columns, align, strict=True):
        table.add_column(Text(column), justify="left" if side == "l" else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(file=file).print(table)


def print_front(
    front: Sequence[TrialRecord], objectives: Mapping[str, Direction], *, file: TextIO | None = None
) -> None:
    """Print a Pareto front: a row for each trial, the objectives first.

    Args:
        front: Trials of the front, as :meth:`dicenas.runs.RunFolder.front` returns them.
        objectives: Name and direction of each objective.
        file: Where to print; standard output by default.
    """
    present = [name for name in _SHOWN if any(name in trial.metrics for trial in front)]
    names = list(dict.fromkeys([*objectives, *present]))
    arrows = {"maximize": " ↑", "minimize": " ↓"}
    titles = [get_metric(name).title + arrows.get(objectives.get(name, ""), "") for name in names]
    rows = [
        [
            str(trial.number),
            *(get_metric(name).format(trial.metrics.get(name)) for name in names),
            f"{trial.architecture.width:g}",
            _ops(trial),
        ]
        for trial in front
    ]
    print_table(
        ["trial", *titles, "width", "ops"],
        rows,
        align="r" * (len(names) + 2) + "l",
        title=f"Pareto front: {len(front)} {'trial' if len(front) == 1 else 'trials'}",
        file=file,
    )


def print_final(trials: Sequence[FinalTrial], *, file: TextIO | None = None) -> None:
    """Print what was trained for real: accuracies of the search against final ones.

    Args:
        trials: What was trained, or was to be.
        file: Where to print; standard output by default.
    """
    accuracy = get_metric("accuracy")
    rows = []
    for final in trials:
        reached = None if final.result is None else final.result.metrics["accuracy"]
        where = "not at its end" if final.result is None else str(final.result.export_path)
        searched = final.trial.metrics.get("accuracy")
        rows.append([str(final.trial.number), accuracy.format(searched), accuracy.format(reached), where])
    print_table(
        ["trial", "Searched accuracy (%)", "Final accuracy (%)", "exported"],
        rows,
        align="rrrl",
        title="Final training",
        file=file,
    )


def _ops(trial: TrialRecord) -> str:
    counts = Counter(split_candidate(op)[0] for stage in trial.architecture.stages for op in stage)
    return ", ".join(f"{count} {op}" for op, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
