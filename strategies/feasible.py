"""Which architectures of a space meet the constraints, told from costs that are computed once for each."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from random import Random

from dicenas.architecture import Architecture
from dicenas.cost.predict import MissingBlockError
from dicenas.space import SpaceSpec
from dicenas.strategies.costs import CLOSED_FORMS, CostFunction, ordered
from dicenas.strategies.trials import describe

__all__ = ["CostBook", "CostError"]

_logger = logging.getLogger(__name__)

_FAILURES_IN_A_ROW = 3

_SMALL_SPACE = 500
_WALK_STEPS = 300
# A step that fails a slow cost takes a tenth of a second or more; most mutations of an architecture fit into so many.
_SLOW_STEPS_WITHOUT_PROGRESS = 60
_SMALLEST_OF = 100

_FEASIBLE = (0.0, 0.0)
_FARTHEST = (math.inf, 0.0)


class CostError(Exception):
    """A cost function failed for an architecture."""


class CostBook:
    """Costs of the architectures of a space, and the constraints on them.

    Args:
        space: The space.
        functions: Functions of an architecture by name of cost.
        constraints: Upper bounds by name of cost.

    Attributes:
        known: Costs by hash of architecture.
    """

    def __init__(
        self, space: SpaceSpec, functions: Mapping[str, CostFunction], constraints: Mapping[str, float]
    ) -> None:
        self.known: dict[str, dict[str, float]] = {}
        self._space = space
        self._functions = functions
        self._constraints = constraints
        self._bounded = ordered(constraints)
        self._slow = sum(name not in CLOSED_FORMS for name in constraints)
        self._free = ordered(name for name in functions if name not in constraints)
        self._failures: Counter[str] = Counter()

    def costs(self, architecture: Architecture) -> tuple[dict[str, float], str | None]:
        """Return costs and the first constraint that they violate; what comes after that is not computed.

        Raises:
            CostError: A cost function failed.
            RuntimeError: It failed for several architectures in a row.
        """
        costs = self.known.setdefault(architecture.hash, {})
        for name in [*self._bounded, *self._free]:
            if name not in costs:
                costs[name] = self._compute(name, architecture)
            if costs[name] > self._constraints.get(name, math.inf):
                return dict(costs), name
        return dict(costs), None

    def _compute(self, name: str, architecture: Architecture) -> float:
        try:
            value = float(self._functions[name](architecture))
            if not math.isfinite(value):
                raise ValueError(f"the value is {value}")
        except Exception as error:  # measuring runs foreign code, and one failure must not end a search
            # That the device has not the memory for a block says nothing about the next architecture.
            self._failures[name] += not isinstance(error, MissingBlockError)
            message = f"{name} of architecture {architecture.hash} could not be determined: {describe(error)}"
            if self._failures[name] >= _FAILURES_IN_A_ROW:
                raise RuntimeError(f"{message} (failed {self._failures[name]} times in a row)") from error
            _logger.warning("%s; it is passed over", message)
            raise CostError(message) from error
        self._failures[name] = 0
        return value

    def feasible(self, rng: Random) -> Iterator[Architecture]:
        """Yield feasible architectures: all of a small space, those met on a walk through a large one."""
        return self._all(rng) if self._space.size <= _SMALL_SPACE else self._walk(rng)

    def _all(self, rng: Random) -> Iterator[Architecture]:
        for architecture in rng.sample(list(self._space.enumerate()), self._space.size):
            if self._violation(architecture) == _FEASIBLE:
                yield architecture

    def _walk(self, rng: Random) -> Iterator[Architecture]:
        """Follow mutations that do not lead away from the constraints, from a random and from a small architecture."""
        for start in (self._space.random(rng), self._small(rng)):
            current, distance, fruitless = start, self._violation(start), 0
            if distance == _FEASIBLE:
                yield start
            for _ in range(_WALK_STEPS):
                candidate = self._space.mutate(current, rng)
                violation = self._violation(candidate)
                if violation == _FEASIBLE:
                    yield candidate
                elif violation < distance:
                    fruitless = 0
                elif violation[0] <= self._slow:
                    fruitless += 1
                    if fruitless == _SLOW_STEPS_WITHOUT_PROGRESS:
                        break
                if violation <= distance:
                    current, distance = candidate, violation

    def _small(self, rng: Random) -> Architecture:
        """Return the architecture of the fewest MACs among random ones: its slow costs tend to be low."""
        drawn = [self._space.random(rng) for _ in range(_SMALLEST_OF)]
        return min(drawn, key=lambda architecture: self._space.cost(architecture).macs)

    def _violation(self, architecture: Architecture) -> tuple[float, float]:
        """Return how many constraints are left from the first that is violated, and by how much it is."""
        try:
            costs, violated = self.costs(architecture)
        except CostError:
            return _FARTHEST
        if violated is None:
            return _FEASIBLE
        left = len(self._bounded) - self._bounded.index(violated)
        return left, costs[violated] - self._constraints[violated]

    def smallest_seen(self) -> str:
        """Return each bound with the smallest value seen, in words."""
        return ", ".join(self._bound_and_smallest(name) for name in self._bounded)

    def _bound_and_smallest(self, name: str) -> str:
        seen = [costs[name] for costs in self.known.values() if name in costs]
        smallest = f"smallest value seen {min(seen):,.10g}" if seen else "not computed, an earlier constraint failed"
        return f"{name} <= {self._constraints[name]:,.10g} ({smallest})"
