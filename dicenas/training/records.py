"""What a training leaves in its folder beside its checkpoint."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dicenas.files import atomic_write_text

__all__ = ["TrainFolder", "TrainResult"]


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Attributes:
        path: Its folder.
        metrics: ``accuracy`` (top-1), ``top5_accuracy`` and ``loss`` on the validation images after the last epoch,
            ``train_seconds`` and ``epochs``.
    """

    path: Path
    metrics: Mapping[str, float]

    @property
    def export_path(self) -> Path:
        """Folder of the exported network."""
        return TrainFolder(self.path).export_path


class TrainFolder:
    """The folder of a training.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def identity_path(self) -> Path:
        """What training this is: architecture, recipe, data."""
        return self.path / "training.json"

    @property
    def checkpoint_path(self) -> Path:
        """The newest checkpoint."""
        return self.path / "checkpoint.pt"

    @property
    def metrics_path(self) -> Path:
        """One row an epoch."""
        return self.path / "metrics.csv"

    @property
    def confusion_path(self) -> Path:
        """The confusion matrix of the last epoch: a row a class, a column a guess."""
        return self.path / "confusion.csv"

    @property
    def result_path(self) -> Path:
        """What the training came to; it is written last."""
        return self.path / "result.json"

    @property
    def export_path(self) -> Path:
        """Folder of the exported network."""
        return self.path / "export"

    def claim(self, identity: Mapping[str, Any]) -> None:
        """Make the folder and write down what training it is for.

        Raises:
            FileExistsError: It holds something else.
        """
        if not self.identity_path.is_file() and self.path.exists() and any(self.path.iterdir()):
            raise FileExistsError(f"{self.path} is not empty and holds no training; choose another folder")
        self.path.mkdir(parents=True, exist_ok=True)
        atomic_write_text(self.identity_path, json.dumps(identity, indent=2) + "\n")

    def read_identity(self) -> dict[str, Any] | None:
        """Return what :meth:`claim` wrote, None where it wrote nothing.

        Raises:
            ValueError: The file is damaged.
        """
        if not self.identity_path.is_file():
            return None
        try:
            identity: dict[str, Any] = json.loads(self.identity_path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.identity_path} is damaged: {error}") from error
        return identity

    def write_metrics(self, history: Sequence[Mapping[str, float]]) -> None:
        """Write the table of epochs."""
        _write_csv(self.metrics_path, list(history[0]), [list(row.values()) for row in history])

    def write_result(self, metrics: Mapping[str, float]) -> None:
        """Write what the training came to."""
        atomic_write_text(self.result_path, json.dumps(metrics, indent=2) + "\n")

    def read_result(self) -> TrainResult | None:
        """Return what the training came to, None where it is not at its end."""
        if not self.result_path.is_file():
            return None
        return TrainResult(self.path, json.loads(self.result_path.read_text(encoding="utf-8")))

    def write_confusion(self, confusion: Tensor, class_names: Sequence[str]) -> None:
        """Write the confusion matrix.

        Args:
            confusion: Shape ``(num_classes, num_classes)``, rows are classes and columns guesses.
            class_names: Names of the classes.
        """
        rows = [[name, *row] for name, row in zip(class_names, confusion.tolist(), strict=True)]
        _write_csv(self.confusion_path, ["class", *class_names], rows)


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    atomic_write_text(path, text.getvalue())
