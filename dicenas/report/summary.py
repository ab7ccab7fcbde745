"""What a report is about: a run folder, read once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dicenas.architecture import Architecture
from dicenas.files import read_json
from dicenas.pareto import Direction, default_direction
from dicenas.report.metrics import Metric, get_metric
from dicenas.runs import RunFolder, TrialRecord
from dicenas.space import SpaceSpec

__all__ = ["BoundWinner", "RunSummary"]

_BOUNDABLE = ("latency_ms", "macs", "params", "peak_memory_mb")


@dataclass(frozen=True)
class BoundWinner:
    """The best trial under a bound.

    Attributes:
        bound: The largest value allowed, as stored; None for no bound.
        trial: The best of the trials that keep it.
        candidates: How many trials keep it.
    """

    bound: float | None
    trial: TrialRecord
    candidates: int


@dataclass(frozen=True)
class RunSummary:
    """A run folder as the report shows it.

    Attributes:
        run: The folder.
        config: The search configuration.
        environment: Versions, device and times.
        objectives: Name and direction of each objective, the first one leading.
        trials: All finished trials.
        front: The Pareto front, best first objective first.
    """

    run: RunFolder
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    objectives: Mapping[str, Direction]
    trials: tuple[TrialRecord, ...]
    front: tuple[TrialRecord, ...]

    @classmethod
    def read(cls, run: RunFolder) -> RunSummary:
        """Read a run folder.

        Raises:
            FileNotFoundError: It has no configuration, so it is no run folder.
            ValueError: A file in it is damaged.
        """
        if not run.config_path.is_file():
            raise FileNotFoundError(f"{run.path} is no run folder: it has no {run.config_path.name}")
        config = run.read_config()
        if not config.get("objectives"):
            raise ValueError(f"{run.config_path} is damaged: it names no objectives")
        environment = {}
        if run.environment_path.is_file():
            environment = read_json(run.environment_path)
        given = config["objectives"]
        objectives = dict(given) if isinstance(given, Mapping) else {name: default_direction(name) for name in given}
        return cls(run, config, environment, objectives, tuple(run.trials()), tuple(run.front(objectives)))

    @property
    def name(self) -> str:
        """Name of the run."""
        return str(self.config.get("name") or self.run.path.name)

    @cached_property
    def complete(self) -> tuple[TrialRecord, ...]:
        """The trials with a number for every objective."""
        return tuple(
            trial
            for trial in self.trials
            if trial.state == "complete" and all(math.isfinite(trial.metrics.get(n, math.nan)) for n in self.objectives)
        )

    @cached_property
    def failed(self) -> tuple[TrialRecord, ...]:
        """The trials that are not complete."""
        complete = {trial.number for trial in self.complete}
        return tuple(trial for trial in self.trials if trial.number not in complete)

    @property
    def leading(self) -> str:
        """The first objective."""
        return next(iter(self.objectives))

    @cached_property
    def latency(self) -> Mapping[str, Any]:
        """How latency was measured; empty where the user's own function gave it."""
        section = self.config.get("latency")
        return section if isinstance(section, Mapping) else {}

    @property
    def device_name(self) -> str | None:
        """Name of the device that latency was measured on."""
        on_cuda = str(self.latency.get("device")).startswith("cuda")
        return self.environment.get("cuda_device_name" if on_cuda else "device_name")

    @property
    def input_size(self) -> int | None:
        """Image size at which cost and latency were taken, None for each architecture's own."""
        return self.latency.get("input_size")

    def metric(self, name: str) -> Metric:
        """Return how a metric of this run is written; latency names its runtime."""
        if name == "latency_ms" and self.latency.get("runtime"):
            predicted = "predicted, " if self.latency.get("table") else ""
            return Metric(name, f"Latency, {predicted}{self.latency['runtime']}", "ms")
        return get_metric(name)

    def deployed(self, architecture: Architecture) -> Architecture:
        """Return an architecture at the size at which its costs were taken."""
        return architecture.at_size(self.input_size)

    def space(self) -> SpaceSpec | None:
        """Return the space searched, None where the configuration does not describe it."""
        section = self.config.get("space")
        if not isinstance(section, Mapping):
            return None
        if "num_classes" in section:  # a search from Python describes its space in full
            return SpaceSpec(**section)
        architecture = self.trials[0].architecture if self.trials else Architecture("", 1.0, ())
        data = self.config.get("data")
        image_size = data.get("image_size") if isinstance(data, Mapping) else None
        return SpaceSpec.from_config(
            section,
            num_classes=architecture.num_classes,
            image_size=image_size or architecture.image_size[0],
            in_channels=architecture.in_channels,
        )

    def bound_metric(self) -> str | None:
        """Return the cost to put bounds on: latency before MACs; None where no trial has one."""
        for name in _BOUNDABLE:
            if name != self.leading and self.complete and all(name in trial.metrics for trial in self.complete):
                return name
        return None

    @cached_property
    def drawn(self) -> tuple[TrialRecord, ...]:
        """The trials to draw: the front, and what wins under a bound without being on it."""
        name = self.bound_metric()
        winners = [winner.trial for winner in self.winners(name)] if name else []
        return tuple({trial.number: trial for trial in (*self.front, *winners)}.values())

    def winners(self, metric: str) -> list[BoundWinner]:
        """Return the best trial without a bound and under three bounds, each tighter than the one before.

        The bounds are the upper quartile, the median and the lower quartile of what the complete trials cost,
        rounded up.
        """
        sign = -1.0 if self.objectives[self.leading] == "maximize" else 1.0

        def loss(trial: TrialRecord) -> tuple[float, float]:
            return sign * trial.metrics[self.leading], trial.metrics[metric]

        costs = sorted(trial.metrics[metric] for trial in self.complete)
        bounds = [_round_up(costs[round(q * (len(costs) - 1))], costs[-1] - costs[0]) for q in (0.75, 0.5, 0.25)]
        winners = [BoundWinner(None, min(self.complete, key=loss), len(costs))]
        for bound in dict.fromkeys(bounds):
            kept = [trial for trial in self.complete if trial.metrics[metric] <= bound]
            if len(kept) < len(costs):
                winners.append(BoundWinner(bound, min(kept, key=loss), len(kept)))
        return winners


def _round_up(value: float, span: float) -> float:
    """Round up to a number that is short to write, in steps of at most a tenth of the span."""
    if span <= 0:
        return value
    exponent = math.floor(math.log10(span / 10))
    return round(math.ceil(round(value / 10**exponent, 6)) * 10**exponent, max(0, -exponent))
