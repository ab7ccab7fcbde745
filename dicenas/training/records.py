"""What a training leaves in its folder beside its checkpoint."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dicenas.files import atomic_write_text, read_json, remove_unfinished, write_json
from dicenas.locks import LOCK, lock_folder

__all__ = ["TrainFolder", "TrainResult"]

_PATIENCE_S = 10.0  # processes that decoded for a training that was killed end within this time


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

    def lock(self) -> AbstractContextManager[None]:
        """Keep other trainings out of the folder.

        Raises:
            FolderInUseError: One is at work in it.
        """
        advice = "let it end, or train into another folder"
        return lock_folder(self.path, self.identity_path, advice, patience_s=_PATIENCE_S)

    def claim(self, identity: Mapping[str, Any]) -> None:
        """Write down what training the folder is for, and take away what a kill left of files that were not whole.

        The folder is locked already; see :meth:`lock`.

        Raises:
            FileExistsError: It holds something else.
        """
        for path in (self.identity_path, self.checkpoint_path, self.metrics_path, self.confusion_path):
            remove_unfinished(path)
        for unfinished in self.path.glob(f".{self.export_path.name}." + 8 * "[0-9a-f]"):
            shutil.rmtree(unfinished)
        if not self.identity_path.is_file() and any(path.name != LOCK for path in self.path.iterdir()):
            raise FileExistsError(f"{self.path} is not empty and holds no training; choose another folder")
        write_json(self.identity_path, identity)

    def read_identity(self) -> dict[str, Any] | None:
        """Return what :meth:`claim` wrote, None where it wrote nothing.

        Raises:
            ValueError: The file is damaged.
        """
        return read_json(self.identity_path) if self.identity_path.is_file() else None

    def write_metrics(self, history: Sequence[Mapping[str, float]]) -> None:
        """Write the table of epochs."""
        _write_csv(self.metrics_path, list(history[0]), [list(row.values()) for row in history])

    @property
    def epochs(self) -> int:
        """Epochs that the table of epochs tells of, 0 before the first is done."""
        if not self.metrics_path.is_file():
            return 0
        return max(0, len(self.metrics_path.read_text(encoding="utf-8").splitlines()) - 1)

    def write_result(self, metrics: Mapping[str, float]) -> None:
        """Write what the training came to."""
        write_json(self.result_path, metrics)

    def read_result(self) -> TrainResult | None:
        """Return what the training came to, None where it is not at its end.

        Raises:
            ValueError: The file is damaged.
        """
        return TrainResult(self.path, read_json(self.result_path)) if self.result_path.is_file() else None

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
