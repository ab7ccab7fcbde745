"""Searches replayed on the tabular benchmark: trainings are looked up, so that hundreds of searches take minutes."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from scipy.stats import kendalltau

from dicenas import Architecture
from dicenas.evaluation import StopEvaluation
from dicenas.evaluation.tabular import TabularEvaluator, TrainingTable
from dicenas.pareto import Direction, hypervolume
from dicenas.space import SpaceSpec
from dicenas.strategies import (
    SAMPLERS,
    ArchitectureStudy,
    SpaceExhaustedError,
    SuccessiveHalving,
    most_promising_first,
)

from .scores import Score
from .table import group

__all__ = [
    "MAX_MACS",
    "OBJECTIVES",
    "Benchmark",
    "Method",
    "Trained",
    "methods",
    "quality",
    "rank_correlations",
    "replay",
]

OBJECTIVES: dict[str, Direction] = {"accuracy": "maximize", "latency_ms": "minimize"}
#: Upper bound on multiply-adds at the native size: a tenth of the architectures is infeasible.
MAX_MACS = 2.5e6


@dataclass(frozen=True)
class Benchmark:
    """What a search can learn, and what is true.

    Args:
        table: File of the trainings.
        latencies: File of the latencies; networks are taken at the size of their deployment, with the native kernels.
        scores: What predicts accuracy, by name.

    Raises:
        ValueError: The table lacks trainings, or a file is damaged.
    """

    table: Path
    latencies: Path
    scores: Mapping[str, Score]

    @cached_property
    def of_seed(self) -> dict[int, TabularEvaluator]:
        """The trainings of each seed that every architecture was trained with."""
        arguments: dict[str, Any] = {"latency": self.latencies, "latency_column": "kernels_deployed"}
        table = TrainingTable(self.table)
        trained = {seed: {key for key, of in table.trainings if of == seed} for seed in table.seeds}
        complete = [seed for seed in table.seeds if len(trained[seed]) == table.space.size]
        if not complete:
            lacking = table.space.size - max(map(len, trained.values()))
            raise ValueError(f"{self.table}: {lacking} architectures were not trained yet")
        return {seed: TabularEvaluator(self.table, training_seed=seed, **arguments) for seed in complete}

    @property
    def any(self) -> TabularEvaluator:
        """The trainings of the first of these seeds: what does not depend on the seed is the same in all."""
        return next(iter(self.of_seed.values()))

    @property
    def space(self) -> SpaceSpec:
        """The space."""
        return self.any.space

    @property
    def epochs(self) -> int:
        """Epochs of a whole training."""
        return self.any.epochs

    @cached_property
    def test_accuracy(self) -> dict[str, float]:
        """Accuracy on the test images, mean of the seeds, by hash of the architecture."""
        trainings = self.any.table.trainings
        found: dict[str, list[float]] = {}
        for (architecture, _), training in trainings.items():
            found.setdefault(architecture, []).append(training.test_accuracy)
        return {architecture: statistics.fmean(values) for architecture, values in found.items()}

    @cached_property
    def latency_ms(self) -> dict[str, float]:
        """Latency in milliseconds, by hash of the architecture."""
        return {a.hash: self.any.costs["latency_ms"](a) for a in self.space.enumerate()}

    @cached_property
    def architectures(self) -> dict[str, Architecture]:
        """The architectures that meet the bound on multiply-adds, by hash."""
        macs = self.any.costs["macs"]
        return {a.hash: a for a in self.space.enumerate() if macs(a) <= MAX_MACS}

    @cached_property
    def reference(self) -> dict[str, float]:
        """The worst true value of each objective: the reference point of hypervolumes."""
        return {
            "accuracy": min(self.test_accuracy[key] for key in self.architectures),
            "latency_ms": max(self.latency_ms[key] for key in self.architectures),
        }

    @cached_property
    def best_hypervolume(self) -> float:
        """Hypervolume of the true front of the space."""
        return self.hypervolume(self.architectures)

    @cached_property
    def latency_bound_ms(self) -> float:
        """Bound under which the most accurate network is wanted: half of the networks are faster."""
        return statistics.median(self.latency_ms[key] for key in self.architectures)

    def hypervolume(self, keys: Sequence[str] | Mapping[str, object]) -> float:
        """Return the hypervolume of architectures by their true accuracy and latency."""
        points = [{"accuracy": self.test_accuracy[key], "latency_ms": self.latency_ms[key]} for key in keys]
        return hypervolume(points, OBJECTIVES, self.reference)

    def by(self, score: str) -> list[Architecture]:
        """Return the architectures in the order in which a score and the latencies make them worth training."""
        scores = {a: self.scores[score].values[key] for key, a in self.architectures.items()}
        return most_promising_first(scores, [{a: self.latency_ms[a.hash] for a in scores}])


@dataclass(frozen=True)
class Method:
    """A way to search.

    Attributes:
        sampler: One of :data:`dicenas.strategies.SAMPLERS`; None trains in the order of the score.
        rungs: Epochs at which trainings that fall behind are stopped.
        reduction_factor: Of how many trainings one goes on at a rung.
        score: What predicts accuracy, of the benchmark's scores.
        first: So many trials are the best by score and latency, before the sampler's own.
        keep: Only this share of the architectures, the best by score and latency, is trained.
    """

    sampler: str | None = "random"
    rungs: tuple[int, ...] = ()
    reduction_factor: int = 2
    score: str | None = None
    first: int = 0
    keep: float = 1.0


def methods(benchmark: Benchmark) -> dict[str, Method]:
    """Return every way to search that is compared, by name."""
    found = {sampler: Method(sampler) for sampler in ("random", *sorted(set(SAMPLERS) - {"random"}))}
    for sampler in ("random", "evolution", "tpe"):
        found[f"{sampler}, rungs"] = Method(sampler, rungs=(4,))
    for score in sorted(benchmark.scores):
        found[f"by {score}"] = Method(None, score=score)
        found[f"random, half by {score}"] = Method("random", score=score, keep=0.5)
        found[f"predictor, first by {score}"] = Method("predictor", score=score, first=16)
    return found


@dataclass(frozen=True)
class Trained:
    """A training of a search.

    Attributes:
        architecture: Hash of the architecture.
        spent: Trained epochs of the search in all, once this training had ended.
        accuracy: Validation accuracy that the search saw.
        complete: Whether it was trained to the end.
    """

    architecture: str
    spent: int
    accuracy: float
    complete: bool


def replay(benchmark: Benchmark, method: Method, seed: int, budget: int) -> list[Trained]:
    """Return the trainings of one search until its budget is spent.

    Args:
        benchmark: The benchmark.
        method: The way to search.
        seed: Seed of the sampler, and of which training of an architecture the search gets to see.
        budget: Trained epochs.
    """
    halving = SuccessiveHalving(method.rungs, method.reduction_factor, OBJECTIVES) if method.rungs else None
    spent = benchmark.scores[method.score].epochs if method.score else 0
    trained: list[Trained] = []
    for number, (architecture, tell) in enumerate(_proposals(benchmark, method, seed)):
        if spent >= budget:
            break
        latency_ms = benchmark.latency_ms[architecture.hash]
        seen: dict[int, float] = {}

        def report(epoch: int, metrics: Mapping[str, float], number=number, latency_ms=latency_ms, seen=seen) -> None:
            seen[epoch] = metrics["accuracy"]
            if halving is not None:
                known = {"accuracy": metrics["accuracy"], "latency_ms": latency_ms}
                if not halving.goes_on(number, epoch, known):
                    raise StopEvaluation

        evaluator = Random(f"{seed} {architecture.hash}").choice(list(benchmark.of_seed.values()))
        with contextlib.suppress(StopEvaluation):
            evaluator(architecture, None, report)
        spent += len(seen)
        trained.append(Trained(architecture.hash, spent, seen[len(seen)], len(seen) == benchmark.epochs))
        tell(seen[len(seen)])
    return [training for training in trained if training.spent <= budget]


def _proposals(
    benchmark: Benchmark, method: Method, seed: int
) -> Iterator[tuple[Architecture, Callable[[float], object]]]:
    order = benchmark.by(method.score) if method.score else []
    if method.sampler is None:
        for architecture in order:
            yield architecture, lambda accuracy: None
        return
    costs = {"latency_ms": lambda a: benchmark.latency_ms[a.hash]}
    bounds = {"macs": MAX_MACS}
    if method.keep < 1:
        kept = set(order[: round(method.keep * len(order))])
        costs["passed_over"] = lambda a: float(a not in kept)
        bounds["passed_over"] = 0.0
    study = ArchitectureStudy(
        benchmark.space, method.sampler, OBJECTIVES, constraints=bounds, costs=costs, cheap_costs=costs, seed=seed
    )
    for architecture in order[: method.first]:
        study.enqueue(architecture)
    while True:
        try:
            proposal = study.ask()
        except SpaceExhaustedError:
            return
        assert proposal.architecture is not None

        def tell(accuracy: float, proposal=proposal) -> None:
            study.tell(proposal, {"accuracy": accuracy})

        yield proposal.architecture, tell


def quality(benchmark: Benchmark, trained: Sequence[Trained], budget: int) -> tuple[float, float | None]:
    """Return what a search has found with a part of its budget, by true values.

    These are the hypervolume of the networks that it trained to the end, as a share of the whole space's; and the
    accuracy of the network under the latency bound that it takes for the best by what it saw, None where it has none.
    """
    complete = [t for t in trained if t.complete and t.spent <= budget]
    share = benchmark.hypervolume([t.architecture for t in complete]) / benchmark.best_hypervolume
    fast = [t for t in complete if benchmark.latency_ms[t.architecture] <= benchmark.latency_bound_ms]
    best = max(fast, key=lambda t: t.accuracy, default=None)
    return share, None if best is None else benchmark.test_accuracy[best.architecture]


def rank_correlations(benchmark: Benchmark) -> dict[str, dict[str, float]]:
    """Return Kendall's tau of what predicts accuracy with the test accuracy of a training, mean over the seeds.

    Beside the scores these are the validation accuracy after each epoch of a training with another seed, the last of
    which is as much as the noise between seeds allows. ``all`` is over all architectures, ``within`` the mean over
    those of one width and resolution, which differ in their ops alone.
    """
    architectures = list(benchmark.space.enumerate())
    trainings = benchmark.any.table.trainings
    seeds = list(benchmark.of_seed)
    test = {seed: [trainings[a.hash, seed].test_accuracy for a in architectures] for seed in seeds}
    predictions = {
        name: {seed: [score.values[a.hash] for a in architectures] for seed in seeds}
        for name, score in sorted(benchmark.scores.items())
    }
    if len(seeds) > 1:
        others = dict(zip(seeds, [*seeds[1:], seeds[0]], strict=True))
        for epoch in range(benchmark.epochs):
            predictions[f"epoch {epoch + 1}, other seed"] = {
                seed: [trainings[a.hash, others[seed]].val_accuracy[epoch] for a in architectures] for seed in seeds
            }
    groups: dict[tuple[float, int], list[int]] = {}
    for index, architecture in enumerate(architectures):
        groups.setdefault(group(architecture), []).append(index)

    def tau(left: Sequence[float], right: Sequence[float], at: Sequence[int]) -> float:
        return float(kendalltau([left[i] for i in at], [right[i] for i in at]).statistic)

    return {
        name: {
            "all": statistics.fmean(tau(p[seed], test[seed], range(len(architectures))) for seed in seeds),
            "within": statistics.fmean(tau(p[seed], test[seed], at) for seed in seeds for at in groups.values()),
        }
        for name, p in predictions.items()
    }
