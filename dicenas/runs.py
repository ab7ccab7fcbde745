"""The run folder: where a search leaves its trials, and where reports and exports find them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from dicenas.architecture import Architecture
from dicenas.files import CHECKSUM, atomic_write_bytes, atomic_write_text, read_json, write_json
from dicenas.nets import Network, build
from dicenas.pareto import Direction, pareto_front

__all__ = ["RESERVED_METRICS", "RunFolder", "TrialRecord"]

_SEALED = "# Settings of a run, as it was started; the last line has their checksum.\n"
_SEAL = "# sha256 of the lines above: "

#: What ``metrics.json`` holds beside the metrics.
RESERVED_METRICS = frozenset({"trial", "state", "error", CHECKSUM})


@dataclass(frozen=True)
class TrialRecord:
    """One trial of a search.

    Attributes:
        number: Number of the trial in the Optuna study.
        architecture: The architecture tried.
        state: ``"complete"`` or ``"failed"``.
        metrics: What was measured, units in the names: ``accuracy``, ``latency_ms``, ``macs``, ...
        error: Why a failed trial failed.

    Raises:
        ValueError: A metric has a name that ``metrics.json`` uses itself.
    """

    number: int
    architecture: Architecture
    state: Literal["complete", "failed"]
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    def __post_init__(self) -> None:
        if taken := RESERVED_METRICS.intersection(self.metrics):
            raise ValueError(f"metrics cannot be called {', '.join(sorted(taken))}: metrics.json uses these names")


class RunFolder:
    """A folder ``runs/<name>`` with the layout that the documentation describes.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def config_path(self) -> Path:
        """The search configuration that the run was started with."""
        return self.path / "config.yaml"

    @property
    def environment_path(self) -> Path:
        """Versions, device and times of the run."""
        return self.path / "environment.json"

    @property
    def log_path(self) -> Path:
        """Log of the run."""
        return self.path / "log.txt"

    @property
    def events_path(self) -> Path:
        """What happened in the run, one JSON line an event."""
        return self.path / "events.jsonl"

    @property
    def storage_path(self) -> Path:
        """Optuna's database of the run."""
        return self.path / "study.db"

    @property
    def storage_url(self) -> str:
        """Optuna storage of the run."""
        return f"sqlite:///{self.storage_path.resolve()}"

    @property
    def report_path(self) -> Path:
        """The report, one file that opens without a network."""
        return self.path / "report.html"

    @property
    def export_path(self) -> Path:
        """Folder of the exported network."""
        return self.path / "export"

    def write_config(self, settings: Mapping[str, Any]) -> None:
        """Write the configuration of the run, with a checksum of it in the last line."""
        import yaml

        text = yaml.safe_dump(dict(settings), sort_keys=False)
        text = f"{_SEALED}{text}"
        atomic_write_text(self.config_path, f"{text}{_SEAL}{_digest(text.encode())}\n")

    def read_config(self) -> dict[str, Any]:
        """Read the configuration of the run; it may be written by hand, without a checksum.

        Raises:
            ValueError: The file is damaged.
        """
        import yaml

        try:
            text = self.config_path.read_text(encoding="utf-8")
            if text.startswith(_SEALED) or _SEAL in text:
                lines, _, digest = text.rpartition(_SEAL)
                if digest != f"{_digest(lines.encode())}\n":
                    raise ValueError("its checksum is missing, or that of another text")
            settings = yaml.safe_load(text)
        except (ValueError, yaml.YAMLError) as error:
            raise ValueError(f"{self.config_path} is damaged: {' '.join(str(error).split())}") from error
        if not isinstance(settings, dict):
            raise ValueError(f"{self.config_path} is damaged: it holds no settings")
        return settings

    def trial_path(self, number: int) -> Path:
        """Folder of a trial."""
        return self.path / "trials" / str(number)

    def weights_path(self, number: int) -> Path:
        """Weights of a finished trial."""
        return self.trial_path(number) / "weights.safetensors"

    def write_trial(self, record: TrialRecord) -> None:
        """Write a trial's architecture and metrics; the trial counts once its metrics are on disk."""
        folder = self.trial_path(record.number)
        folder.mkdir(parents=True, exist_ok=True)
        record.architecture.save(folder / "architecture.json")
        metrics: dict[str, Any] = {"trial": record.number, "state": record.state, **record.metrics}
        if record.error is not None:
            metrics["error"] = record.error
        write_json(folder / "metrics.json", metrics)

    def write_weights(self, number: int, state_dict: Mapping[str, Tensor]) -> None:
        """Write the weights of a trial, the whole file or none, with a checksum of the tensors in its metadata."""
        from safetensors.torch import save

        self.trial_path(number).mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
        # The tensors follow the header, whose length stands in the first eight bytes, in the same order both times.
        digest = _digest(_tensors_of(save(tensors)))
        atomic_write_bytes(self.weights_path(number), save(tensors, {CHECKSUM: digest}))

    def load_network(self, number: int) -> Network:
        """Build the network of a complete trial with its trained weights.

        Raises:
            FileNotFoundError: The trial did not finish, or its weights are not there.
            ValueError: A file of the trial is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        record = self.read_trial(number)
        path = self.weights_path(number)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: trial {number} is {record.state} and has no weights to load")
        try:
            weights = load(_checked_weights(path.read_bytes()))
            network = build(record.architecture)
            network.load_state_dict(weights)
        except (SafetensorError, RuntimeError, ValueError) as error:
            raise ValueError(f"{path} does not hold the weights of this architecture: {error}") from error
        return network

    def read_trial(self, number: int) -> TrialRecord:
        """Read what :meth:`write_trial` wrote.

        Raises:
            FileNotFoundError: The trial did not finish, or there is none of this number.
            ValueError: A file of the trial is damaged.
        """
        path = self.trial_path(number) / "metrics.json"
        if not path.is_file():
            finished = ", ".join(map(str, self.trial_numbers())) or "none"
            raise FileNotFoundError(f"{self.path}: no finished trial {number} (finished: {finished})")
        metrics = read_json(path)
        kept, state, error = metrics.pop("trial", None), metrics.pop("state", None), metrics.pop("error", None)
        odd = [name for name, value in metrics.items() if not isinstance(value, int | float)]
        if kept != number or state not in ("complete", "failed") or odd:
            said = f"{odd[0]} is no number" if odd else f"it is of trial {kept!r}, state {state!r}"
            raise ValueError(f"{path} is damaged: {said}")
        architecture = Architecture.load(path.parent / "architecture.json")
        return TrialRecord(number, architecture, state, error=error, metrics=metrics)

    def trial_numbers(self) -> list[int]:
        """Return the numbers of the finished trials, ascending."""
        paths = (self.path / "trials").glob("*/metrics.json")
        return sorted(int(path.parent.name) for path in paths if path.parent.name.isdigit())

    def trials(self) -> list[TrialRecord]:
        """Return all finished trials, failed ones too, in the order of their numbers."""
        return [self.read_trial(number) for number in self.trial_numbers()]

    def front(self, objectives: Mapping[str, Direction]) -> list[TrialRecord]:
        """Return the Pareto front of the complete trials, the best first objective first."""
        complete = [
            trial
            for trial in self.trials()
            if trial.state == "complete" and all(_finite(trial.metrics.get(name)) for name in objectives)
        ]
        return [complete[i] for i in pareto_front([trial.metrics for trial in complete], objectives)]

    def best(self, objectives: Mapping[str, Direction]) -> TrialRecord:
        """Return the trial that is best in the first objective; the others break ties.

        Raises:
            ValueError: No trial is complete.
        """
        front = self.front(objectives)
        if not front:
            raise ValueError(f"{self.path} holds no complete trial yet")
        return front[0]

    def write_front(self, objectives: Mapping[str, Direction]) -> None:
        """Write ``pareto.csv``: the front, one trial a row."""
        front = self.front(objectives)
        names = list(dict.fromkeys([*objectives, *(name for trial in front for name in trial.metrics)]))
        atomic_write_text(self.path / "pareto.csv", _csv(["trial", "architecture", *names], front, names))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _tensors_of(data: bytes) -> bytes:
    """Return what follows the header of a safetensors file."""
    return data[8 + int.from_bytes(data[:8], "little") :]


def _checked_weights(data: bytes) -> bytes:
    """Return the bytes of a safetensors file, unless its checksum is that of other tensors.

    Raises:
        ValueError: It is.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) >= 8 + length:
        header = json.loads(data[8 : 8 + length])
        kept = header.get("__metadata__", {}).get(CHECKSUM)
        if kept is not None and kept != _digest(_tensors_of(data)):
            raise ValueError("its checksum is that of other tensors")
    return data


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _csv(header: Sequence[str], trials: Sequence[TrialRecord], names: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for trial in trials:
        writer.writerow([trial.number, trial.architecture.hash, *(trial.metrics.get(name, "") for name in names)])
    return text.getvalue()
