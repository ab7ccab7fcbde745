"""Which architectures of a space meet the constraints, told from costs that are computed once for each."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping

from dicenas.architecture import Architecture
from dicenas.cost.predict import MissingBlockError
from dicenas.strategies.costs import CLOSED_FORMS, CostFunction, ordered
from dicenas.strategies.trials import describe

__all__ = ["FEASIBLE", "CostBook", "CostError", "Violation"]

_logger = logging.getLogger(__name__)

_FAILURES_IN_A_ROW = 3

#: How many constraints are left from the first that is violated, and by how much it is; compared in this order.
Violation = tuple[float, float]
FEASIBLE: Violation = (0.0, 0.0)
_FARTHEST: Violation = (math.inf, 0.0)


class CostError(Exception):
    """A cost function failed for an architecture."""


class CostBook:
    """Costs of the architectures of a space, and the constraints on them.

    Args:
        functions: Functions of an architecture by name of cost.
        constraints: Upper bounds by name of cost.

    Attributes:
        functions: The functions.
        known: Costs by hash of architecture.
        constraints: Upper bounds by name of cost.
        slow: Number of constraints on costs that take long to compute.
    """

    def __init__(self, functions: Mapping[str, CostFunction], constraints: Mapping[str, float]) -> None:
        self.known: dict[str, dict[str, float]] = {}
        self.slow = sum(name not in CLOSED_FORMS for name in constraints)
        self.functions = functions
        self.constraints = constraints
        self._bounded = ordered(constraints)
        self._free = ordered(name for name in functions if name not in constraints)
        self._smallest: dict[str, float] = {}
        self._failures: Counter[str] = Counter()

    def costs(self, architecture: Architecture) -> tuple[dict[str, float], str | None]:
        """Return costs and the first constraint that they violate; what comes after that is not computed.

        Raises:
            CostError: A cost function failed.
            RuntimeError: It failed for several architectures in a row.
        """
        costs = self.known.setdefault(architecture.hash, {})
        for name in self._bounded:
            if self._cost(name, architecture, costs) > self.constraints[name]:
                return dict(costs), name
        for name in self._free:
            self._cost(name, architecture, costs)
        return dict(costs), None

    def cost(self, name: str, architecture: Architecture) -> float:
        """Return one cost, NaN where it could not be determined.

        Raises:
            RuntimeError: The cost function failed for several architectures in a row.
        """
        try:
            return self._cost(name, architecture, self.known.setdefault(architecture.hash, {}))
        except CostError:
            return math.nan

    def violation(self, architecture: Architecture) -> Violation:
        """Return how far an architecture is from meeting the constraints, :data:`FEASIBLE` where it does.

        Raises:
            RuntimeError: A cost function failed for several architectures in a row.
        """
        costs = self.known.setdefault(architecture.hash, {})
        for index, name in enumerate(self._bounded):
            try:
                excess = self._cost(name, architecture, costs) - self.constraints[name]
            except CostError:
                return _FARTHEST
            if excess > 0:
                return len(self._bounded) - index, excess
        return FEASIBLE

    def _cost(self, name: str, architecture: Architecture, costs: dict[str, float]) -> float:
        if name not in costs:
            costs[name] = self._compute(name, architecture)
            self._smallest[name] = min(costs[name], self._smallest.get(name, math.inf))
        return costs[name]

    def _compute(self, name: str, architecture: Architecture) -> float:
        try:
            value = float(self.functions[name](architecture))
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

    def smallest_seen(self) -> str:
        """Return each bound with the smallest value seen, in words."""
        return ", ".join(self._bound_and_smallest(name) for name in self._bounded)

    def _bound_and_smallest(self, name: str) -> str:
        if name in self._smallest:
            seen = f"smallest value seen {self._smallest[name]:,.10g}"
        else:
            seen = "not computed, an earlier constraint failed"
        return f"{name} <= {self.constraints[name]:,.10g} ({seen})"
