"""What is searched for, and who works on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dicenas.architecture import Architecture
from dicenas.config import LatencyConfig
from dicenas.evaluation import Evaluate
from dicenas.pareto import Direction
from dicenas.space import SpaceSpec
from dicenas.workers.limits import Limits
from dicenas.workers.supervisor import Child
from dicenas.workers.worker import Rungs

__all__ = ["Task", "Workers"]


@dataclass(frozen=True)
class Task:
    """What is searched for, and how an architecture is evaluated.

    Attributes:
        space: The space.
        evaluate: Evaluates an architecture.
        latency: Where latency comes from.
        objectives: Names of the objectives, or directions by name.
        constraints: Upper bounds by name of cost.
        sampler: Name of the sampler.
        seed: Seed of the sampler and of the initial weights.
        first: Architectures that are evaluated first.
        first_suggestions: How many of the evaluator's suggestions are evaluated after these.
        rungs: Makes the rungs, for directions of the objectives; ``None`` where every trial goes to its end.
        data_found: What the data of the search is like; it may not change from one session, or worker, to another.
    """

    space: SpaceSpec
    evaluate: Evaluate
    latency: LatencyConfig | Callable[[Architecture], float]
    objectives: Sequence[str] | Mapping[str, Direction]
    constraints: Mapping[str, float]
    sampler: str
    seed: int
    first: Sequence[Architecture] = ()
    first_suggestions: int = 0
    rungs: Callable[[Mapping[str, Direction]], Rungs] | None = None
    data_found: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Workers:
    """Who works on a search.

    Attributes:
        count: Processes; with 1 and no limit, the search runs in the process that called for it.
        limits: What an evaluation may take.
        start: Starts a worker process by its place and the file descriptor that it tells its events to; by default a
            copy of this process.
        storage: URL of the database of the study; ``None`` for a file in the run folder.
        proxy: ``HOST:PORT`` of Optuna's gRPC proxy in front of that database.
        tensorboard: Whether scalars for TensorBoard are written to the run folder.
    """

    count: int = 1
    limits: Limits = field(default_factory=Limits)
    start: Callable[[int, int], Child] | None = None
    storage: str | None = None
    proxy: str | None = None
    tensorboard: bool = False

    @property
    def apart(self) -> bool:
        """Whether evaluations run in processes of their own."""
        return self.count > 1 or self.limits.wanted
