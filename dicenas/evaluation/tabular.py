"""Finished trainings from a file, in place of training.

A table is a file of JSON lines. The first line is its header: ``schema_version``, ``space`` (as
:meth:`~dicenas.SpaceSpec.to_dict` gives it), ``seeds``, and the ``recipe`` with its ``epochs``; what else it says is
kept as it is. Each further line is one :class:`Training`. A file of latencies, which is optional, is one JSON object
with ``schema_version`` and ``rows``, each with ``architecture`` (hash) and ``latency_ms``, milliseconds by column.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dicenas.architecture import Architecture
from dicenas.evaluation.evaluators import Evaluator, Report
from dicenas.space import SpaceSpec
from dicenas.spelling import did_you_mean

__all__ = [
    "SCHEMA_VERSION",
    "TabularConfig",
    "TabularEvaluator",
    "Training",
    "TrainingTable",
    "read_latencies",
]

#: Version of the form of both files; raised when a field is added, renamed or changes its meaning.
SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Training:
    """One finished training, a line of a table.

    Attributes:
        architecture: Hash of the architecture.
        sample: Value of each choice of the table's space.
        seed: Seed of the initial weights, the order of the images and their augmentation.
        val_accuracy: Accuracy on the validation images after each epoch, 0 to 1.
        val_loss: Mean cross-entropy on the validation images after each epoch.
        train_loss: Mean loss of the steps of each epoch.
        test_accuracy: Accuracy on the test images at the end, 0 to 1.
        macs: Multiply-adds of one image at the native size.
        params: Parameters.
        cpu_seconds: Processor time of training and evaluations.
        wall_seconds: Time that passed; machines were shared.
        finished: When, in UTC.
        origin: Version of the code, torch and processor.
    """

    architecture: str
    sample: Mapping[str, str | float]
    seed: int
    val_accuracy: tuple[float, ...]
    val_loss: tuple[float, ...]
    train_loss: tuple[float, ...]
    test_accuracy: float
    macs: int
    params: int
    cpu_seconds: float
    wall_seconds: float
    finished: str
    origin: str

    @property
    def key(self) -> tuple[str, int]:
        """What no two lines of a table share: architecture and seed."""
        return self.architecture, self.seed


class TrainingTable:
    """The finished trainings of a file.

    A last line that has no end is a training that was not written whole: it is passed over.

    Args:
        path: The file.

    Attributes:
        path: The file.
        header: What its first line says.
        space: The space whose architectures were trained.
        seeds: Seeds that an architecture is trained with.
        epochs: Epochs of a training.
        trainings: Each finished training by architecture (its hash) and seed.

    Raises:
        ValueError: The file is not there, is no table of this version, or a line in it is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            lines = self.path.read_bytes().decode().split("\n")[:-1]
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.path}: cannot be read: {error}") from error
        if not lines:
            raise ValueError(f"{self.path}: has no whole line; the first one should say what was trained")
        with _named(self.path, 1):
            self._read_header(lines[0])
        self.trainings: dict[tuple[str, int], Training] = {}
        for number, line in enumerate(lines[1:], 2):
            with _named(self.path, number):
                training = self._read_training(line)
                if training.key in self.trainings:
                    raise ValueError(f"architecture {training.architecture} with seed {training.seed} is there twice")
            self.trainings[training.key] = training

    def architectures(self) -> list[Architecture]:
        """Return the architectures that have all their seeds, in the order of the space."""
        return [
            architecture
            for architecture in self.space.enumerate()
            if all((architecture.hash, seed) in self.trainings for seed in self.seeds)
        ]

    def check(self, training: Training) -> None:
        """Check a training against the header.

        Raises:
            ValueError: It is of another space, seed or number of epochs, or its values are none of a training.
        """
        if self.space.architecture(training.sample).hash != training.architecture:
            raise ValueError(f"{dict(training.sample)} is not architecture {training.architecture}")
        if training.seed not in self.seeds:
            raise ValueError(f"seed {training.seed} is none of {list(self.seeds)}")
        curves = (training.val_accuracy, training.val_loss, training.train_loss)
        if any(len(curve) != self.epochs for curve in curves):
            raise ValueError(f"{[len(curve) for curve in curves]} values in the curves, expected {self.epochs} epochs")
        if not all(0 <= accuracy <= 1 for accuracy in (*training.val_accuracy, training.test_accuracy)):
            raise ValueError("an accuracy is outside 0 to 1")
        if not all(math.isfinite(loss) for loss in (*training.val_loss, *training.train_loss)):
            raise ValueError("a loss is not finite")

    def _read_header(self, line: str) -> None:
        header = json.loads(line)
        if not isinstance(header, dict) or header.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"is not the first line of a table of schema version {SCHEMA_VERSION}")
        self.header: dict[str, Any] = header
        self.space = SpaceSpec.from_dict(header["space"])
        self.seeds = tuple(header["seeds"])
        self.epochs = int(header["recipe"]["epochs"])

    def _read_training(self, line: str) -> Training:
        values = json.loads(line)
        curves = {name: tuple(values[name]) for name in ("val_accuracy", "val_loss", "train_loss")}
        training = Training(**{**values, **curves})
        self.check(training)
        return training


@contextmanager
def _named(path: Path, line: int) -> Iterator[None]:
    """Say of errors in which line of which file they are."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path}, line {line}: {what}") from error


def read_latencies(path: str | Path) -> dict[str, dict[str, float]]:
    """Read a file of latencies.

    Returns:
        Milliseconds by architecture (its hash), then by column, such as ``"kernels_native"``.

    Raises:
        ValueError: The file is not there, or is no such file.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"has schema version {content['schema_version']!r}, expected {SCHEMA_VERSION}")
        return {
            row["architecture"]: {name: float(value) for name, value in row["latency_ms"].items()}
            for row in content["rows"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: is no file of latencies: {error!r}") from error


@dataclass(frozen=True)
class TabularConfig:
    """Finished trainings in place of training.

    Attributes:
        path: File of the trainings.
        latency: File of their latencies; ``None`` where latency is no cost.
        latency_column: Which of its latencies are taken: the runtime and the image size.
        training_seed: Seed of the trainings that are replayed; ``None`` takes the mean of all seeds.
    """

    path: str
    latency: str | None = None
    latency_column: str = "kernels_native"
    training_seed: int | None = None


class TabularEvaluator(Evaluator):
    """Replays a file of finished trainings, in microseconds each.

    Each epoch is reported with ``accuracy`` and ``loss`` on the validation images and ``train_loss``, as
    :class:`~dicenas.evaluation.TrainEvaluator` does, so that rungs end replayed trainings too. The network is not
    looked at. ``costs`` holds ``macs`` and ``params`` at the native size, and ``latency_ms`` where latencies are given.

    Args:
        path: The table.
        latency: File of latencies.
        latency_column: Which of its columns is ``latency_ms``.
        training_seed: Seed of the trainings; the mean over all seeds by default.

    Attributes:
        table: The finished trainings.

    Raises:
        ValueError: A file is damaged or of another form, the column or the seed is not there, an architecture that
            has its trainings has no latency, or there is no training at all.
    """

    trains_network = False

    def __init__(
        self,
        path: str | Path,
        *,
        latency: str | Path | None = None,
        latency_column: str = "kernels_native",
        training_seed: int | None = None,
    ) -> None:
        self.table = TrainingTable(path)
        seeds = self.table.seeds if training_seed is None else (training_seed,)
        if training_seed is not None and training_seed not in self.table.seeds:
            raise ValueError(
                f"{path} has no trainings with seed {training_seed}; its seeds are {list(self.table.seeds)}"
            )
        trained = self.table.trainings
        self._entries = {
            key: _Entry([trained[key, seed] for seed in seeds])
            for key in dict.fromkeys(key for key, _ in trained)
            if all((key, seed) in trained for seed in seeds)
        }
        if not self._entries:
            raise ValueError(f"{path} holds no architecture that was trained with {_seeds(seeds)}")
        self._seeds = seeds
        self._latency_ms = None if latency is None else self._read_latency(latency, latency_column)

    def _read_latency(self, path: str | Path, column: str) -> dict[str, float]:
        rows = read_latencies(path)
        latencies: dict[str, float] = {}
        for key in self._entries:
            columns = rows.get(key, {})
            if column not in columns:
                known = sorted(columns or next(iter(rows.values()), {}))
                lacks = "the column" if columns else f"architecture {key}, and with it the column"
                hint = did_you_mean(column, known)
                raise ValueError(f"{path} lacks {lacks} {column!r}{hint} (columns: {', '.join(known) or 'none'})")
            latencies[key] = columns[column]
        return latencies

    @property
    def space(self) -> SpaceSpec:
        """The space whose architectures were trained."""
        return self.table.space

    @property
    def epochs(self) -> int:
        """Epochs of each training."""
        return self.table.epochs

    @property
    def costs(self) -> Mapping[str, Callable[[Architecture], float]]:
        """``macs``, ``params`` and, where latencies are given, ``latency_ms``, as the files have them."""
        costs: dict[str, Callable[[Architecture], float]] = {
            "macs": lambda architecture: self._entry(architecture).macs,
            "params": lambda architecture: self._entry(architecture).params,
        }
        if (latencies := self._latency_ms) is not None:
            costs["latency_ms"] = lambda architecture: latencies[self._known(architecture)]
        return costs

    def __call__(self, architecture: Architecture, net: nn.Module | None, report: Report) -> Mapping[str, float]:
        """Report each epoch of the training and return the last one's metrics.

        Args:
            architecture: The architecture.
            net: Not used; may be ``None``.
            report: Called after each epoch, as a training does.

        Returns:
            ``accuracy`` and ``loss`` on the validation images, ``test_accuracy``, which is not for searching,
            ``train_seconds``, the processor time that the training took, and ``epochs``.

        Raises:
            ValueError: The table has no training of this architecture.
        """
        entry = self._entry(architecture)
        for epoch, metrics in enumerate(entry.curves, 1):
            report(epoch, dict(metrics))
        return dict(entry.metrics)

    def _known(self, architecture: Architecture) -> str:
        if architecture.hash not in self._entries:
            raise ValueError(
                f"{self.table.path} has no training of architecture {architecture.hash} with {_seeds(self._seeds)}"
                + ("" if architecture in self.space else f"; it is no point of the table's {self.space.backbone} space")
            )
        return architecture.hash

    def _entry(self, architecture: Architecture) -> _Entry:
        return self._entries[self._known(architecture)]


class _Entry:
    """What a table says of one architecture: the mean of its trainings."""

    def __init__(self, runs: Sequence[Training]) -> None:
        self.macs, self.params = float(runs[0].macs), float(runs[0].params)
        curves = {"accuracy": "val_accuracy", "loss": "val_loss", "train_loss": "train_loss"}
        self.curves = [
            {name: statistics.fmean(getattr(run, column)[epoch] for run in runs) for name, column in curves.items()}
            for epoch in range(len(runs[0].val_accuracy))
        ]
        last = {name: value for name, value in self.curves[-1].items() if name != "train_loss"}
        self.metrics = {
            **last,
            "test_accuracy": statistics.fmean(run.test_accuracy for run in runs),
            "train_seconds": statistics.fmean(run.cpu_seconds for run in runs),
            "epochs": len(self.curves),
        }


def _seeds(seeds: Sequence[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {' and '.join(map(str, seeds))}"
