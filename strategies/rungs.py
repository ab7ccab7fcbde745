"""Asynchronous successive halving for any number of objectives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from dicenas.pareto import Direction
from dicenas.strategies.objectives import parse_objectives
from dicenas.strategies.ranking import best_first

__all__ = ["SuccessiveHalving"]


class SuccessiveHalving:
    """Stops trials that are not among the best at a rung (asynchronous successive halving, arXiv 1810.05934).

    At a rung a trial goes on when it is among the best ``1 / reduction_factor`` of those that reached the rung so far,
    itself included: by the front that it stands in, then by how little crowded it is there, then by the first
    objective. Nobody waits for anybody: the first trial at a rung always goes on. Optuna's pruners do the same for one
    objective alone, since ``trial.report`` refuses several.

    A decision depends on what was recorded for the rung before, not on its order: a search that is taken up again, or
    another process, decides alike once it recorded the same results::

        halving = SuccessiveHalving(rungs=(1, 3), objectives=("accuracy", "latency_ms"))
        if not halving.goes_on(trial, epoch, {"accuracy": 0.61, "latency_ms": 4.2}):
            raise StopEvaluation

    Args:
        rungs: Steps, such as epochs, at which trials are compared, ascending.
        reduction_factor: Of how many trials one goes on.
        objectives: Names of the objectives, or directions by name. All of them are in the metrics at a rung: costs are
            known before training and may be added there.
        directions: Directions of the objectives; not needed for well-known metrics.

    Raises:
        ValueError: An argument cannot be used.
    """

    def __init__(
        self,
        rungs: Sequence[int] = (1, 3),
        reduction_factor: int = 3,
        objectives: Sequence[str] | Mapping[str, Direction] = ("accuracy",),
        directions: Sequence[Direction] | None = None,
    ) -> None:
        whole = all(isinstance(rung, int) and not isinstance(rung, bool) for rung in rungs)
        if not rungs or not whole or min(rungs) < 1 or list(rungs) != sorted(set(rungs)):
            raise ValueError(f"rungs {list(rungs)} should be ascending steps of at least 1, such as (1, 3)")
        if isinstance(reduction_factor, bool) or not isinstance(reduction_factor, int) or reduction_factor < 2:
            raise ValueError(f"reduction_factor {reduction_factor!r} should be an integer of at least 2")
        self.rungs = tuple(rungs)
        self.reduction_factor = reduction_factor
        self.objectives = parse_objectives(objectives, directions)
        self._losses: dict[int, dict[int, tuple[float, ...]]] = {rung: {} for rung in rungs}

    def record(self, trial: int, step: int, metrics: Mapping[str, float]) -> None:
        """Take up what a trial of an earlier session, or of another process, reported.

        Args:
            trial: Number of the trial.
            step: The step; steps that are no rung are passed over.
            metrics: Metrics by name.

        Raises:
            ValueError: An objective is missing at a rung.
        """
        if step in self._losses:
            self._losses[step][trial] = self._loss(metrics)

    def forget(self, trials: Iterable[int]) -> None:
        """Drop what trials reported that were interrupted and are going to be evaluated again."""
        for trial in trials:
            for losses in self._losses.values():
                losses.pop(trial, None)

    def goes_on(self, trial: int, step: int, metrics: Mapping[str, float]) -> bool:
        """Record what a trial reports, and return whether it is worth going on with.

        Args:
            trial: Number of the trial.
            step: The step; a trial always goes on at one that is no rung.
            metrics: Metrics by name; where an objective is NaN or infinite the trial does not go on.

        Raises:
            ValueError: An objective is missing at a rung.
        """
        if step not in self._losses:
            return True
        self.record(trial, step, metrics)
        losses = self._losses[step]
        if math.inf in losses[trial]:
            return False
        numbers = sorted(losses)
        places = max(1, len(numbers) // self.reduction_factor)
        best = best_first(np.array([losses[other] for other in numbers]))[:places]
        return trial in {numbers[index] for index in best}

    def _loss(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        if missing := [name for name in self.objectives if name not in metrics]:
            raise ValueError(
                f"objectives {', '.join(missing)} are missing at a rung (reported: {', '.join(metrics) or 'nothing'}); "
                "report every objective there, costs that are known before training as well"
            )
        signed = [
            -float(metrics[name]) if direction == "maximize" else float(metrics[name])
            for name, direction in self.objectives.items()
        ]
        # One value that is no number is worst in every objective: the trial dominates nobody by the others.
        return tuple(signed) if all(map(math.isfinite, signed)) else (math.inf,) * len(signed)
