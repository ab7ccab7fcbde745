"""Pictures of a training: its curves, and what it takes for what."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from dicenas.report.figures import INK, SOFT, draw_figure
from dicenas.training.records import TrainFolder

__all__ = ["plot_training"]

_TRAINING, _VALIDATION = "#0072b2", "#d55e00"
_MOST_NAMED = 40  # classes whose names can be read
_MOST_NUMBERED = 15  # classes whose counts can be read


def plot_training(path: Path) -> tuple[Path, Path]:
    """Draw ``curves.png`` and ``confusion.png`` into the folder of a training.

    Args:
        path: The folder.

    Returns:
        The two files.

    Raises:
        FileNotFoundError: There is no training in it, or no epoch of it is done.
        ModuleNotFoundError: matplotlib is not installed.
    """
    folder = TrainFolder(path)
    header, *rows = _read(folder.metrics_path)
    epochs = [dict(zip(header, row, strict=True)) for row in rows]
    (_, *names), *matrix = _read(folder.confusion_path)
    counts = [[int(count) for count in row[1:]] for row in matrix]
    curves, confusion = path / "curves.png", path / "confusion.png"
    draw_figure(lambda figure: _draw_curves(figure, epochs), curves, (10.0, 3.6))
    side = min(14.0, 3.0 + 0.35 * len(names))
    draw_figure(lambda figure: _draw_confusion(figure, names, counts), confusion, (side + 1.0, side))
    return curves, confusion


def _read(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def _draw_curves(figure: Any, epochs: list[dict[str, str]]) -> None:
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.07, right=0.98, top=0.88, bottom=0.14, wspace=0.2)
    numbers = [int(row["epoch"]) for row in epochs]

    def curve(axis: Any, column: str, label: str, color: str, factor: float = 1.0, line: str = "-") -> None:
        axis.plot(numbers, [factor * float(row[column]) for row in epochs], line, color=color, label=label, marker=".")

    curve(left, "accuracy", "top-1", _VALIDATION, 100)
    curve(left, "top5_accuracy", "top-5", _VALIDATION, 100, ":")
    left.set_title("Accuracy on validation images, percent")
    curve(right, "train_loss", "training", _TRAINING)
    curve(right, "loss", "validation", _VALIDATION)
    right.set_title("Loss")
    for axis in (left, right):
        axis.set_xlabel("epoch")
        axis.set_xlim(0.5, numbers[-1] + 0.5)
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axis.grid(axis="y", color="#e8e8e4", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)


def _draw_confusion(figure: Any, names: list[str], counts: list[list[int]]) -> None:
    axis = figure.subplots()
    shares = [[100 * count / max(1, sum(row)) for count in row] for row in counts]
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    bar = figure.colorbar(image, ax=axis, fraction=0.04)
    bar.set_label("percent of the images of a class", color=SOFT)
    axis.set_title("Class of the image (row), and what it was taken for (column)")
    if len(names) <= _MOST_NAMED:
        axis.set_xticks(range(len(names)), names, rotation=90)
        axis.set_yticks(range(len(names)), names)
    if len(names) <= _MOST_NUMBERED:
        for i, row in enumerate(counts):
            for j, count in enumerate(row):
                color = "white" if shares[i][j] > 50 else INK
                axis.text(j, i, str(count), ha="center", va="center", color=color, fontsize=8)
    figure.tight_layout()
