"""Costs of architectures that are known before any training, and upper bounds on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Literal, TypeAlias

from dicenas.architecture import Architecture
from dicenas.space import SpaceSpec
from dicenas.spelling import did_you_mean

__all__ = ["CostFunction", "InfeasibleConstraintError", "check_feasible", "default_costs"]

#: Maps an architecture to a cost, in the unit that the cost's name says.
CostFunction: TypeAlias = Callable[[Architecture], float]

# Cheapest first, so that an architecture is rejected before anything slow is done with it.
_ORDER = ("macs", "params", "peak_memory_mb")
CLOSED_FORMS: tuple[Literal["macs", "params"], ...] = ("macs", "params")


class InfeasibleConstraintError(ValueError):
    """No architecture of the space meets a constraint, or none was found."""


def default_costs(space: SpaceSpec, image_size: int | None = None) -> dict[str, CostFunction]:
    """Return ``macs`` and ``params`` from closed forms, and ``peak_memory_mb``.

    Args:
        space: The space.
        image_size: Image size at which architectures are counted, see :meth:`Architecture.at_size`; each one's own
            by default.
    """

    def peak_memory_mb(architecture: Architecture) -> float:
        # Builds the network, which searches without this cost need not wait for.
        from dicenas.cost import network_peak_memory_mb

        return network_peak_memory_mb(architecture.at_size(image_size))

    return {
        "macs": lambda architecture: space.cost(architecture.at_size(image_size)).macs,
        "params": lambda architecture: space.cost(architecture.at_size(image_size)).params,
        "peak_memory_mb": peak_memory_mb,
    }


def ordered(costs: Iterable[str]) -> list[str]:
    """Return names of costs, those that are cheap to compute first, ``latency_ms`` last."""

    def rank(name: str) -> int:
        if name == "latency_ms":
            return len(_ORDER) + 1
        return _ORDER.index(name) if name in _ORDER else len(_ORDER)

    return sorted(costs, key=rank)


# Benchmarks make thousands of studies over one space.
@lru_cache(maxsize=64)
def _minimum(space: SpaceSpec, metric: Literal["macs", "params"], image_size: int | None) -> int:
    return space.minimum(metric, image_size)


def check_feasible(space: SpaceSpec, constraints: Mapping[str, float], image_size: int | None = None) -> None:
    """Check that the space reaches each bound on ``macs`` and ``params``, exactly and without building a network.

    Args:
        space: The space.
        constraints: Upper bounds by cost; those on other costs are passed over.
        image_size: Image size at which architectures are counted; each one's own by default.

    Raises:
        InfeasibleConstraintError: A bound is below the smallest cost of the space; the message gives both.
    """
    for metric in CLOSED_FORMS:
        if metric in constraints and (smallest := _minimum(space, metric, image_size)) > constraints[metric]:
            size = "" if image_size is None else f" at {image_size} pixels"
            raise InfeasibleConstraintError(
                f"constraint {metric} <= {constraints[metric]:,.10g} cannot be met: "
                f"the smallest value in this space{size} is {smallest:,}"
            )


def bounded_costs(
    space: SpaceSpec,
    objectives: Iterable[str],
    constraints: Mapping[str, float],
    costs: Mapping[str, CostFunction],
    image_size: int | None,
) -> tuple[dict[str, CostFunction], dict[str, float], dict[str, float]]:
    """Return the costs that a search needs, its constraints, and those of them that follow from closed forms.

    Args:
        space: The space.
        objectives: Names of the objectives.
        constraints: Upper bounds by name of cost.
        costs: Functions of an architecture, beside and before those of :func:`default_costs`.
        image_size: Image size at which the default costs are counted.

    Raises:
        ValueError: A constraint or the objective ``latency_ms`` has no source.
        InfeasibleConstraintError: The space cannot meet a bound on ``macs`` or ``params``.
    """
    known = {**default_costs(space, image_size), **costs}
    bounds = check_constraints(constraints, known)
    if "latency_ms" in objectives and "latency_ms" not in known:
        raise ValueError("objective 'latency_ms' has no source: give costs={'latency_ms': function of an architecture}")
    closed_forms: dict[str, float] = {
        name: bound for name, bound in bounds.items() if name in CLOSED_FORMS and name not in costs
    }
    check_feasible(space, closed_forms, image_size)
    wanted = {"macs", "params", *objectives, *bounds, *costs}
    return {name: known[name] for name in known if name in wanted}, bounds, closed_forms


def check_constraints(constraints: Mapping[str, float], costs: Iterable[str]) -> dict[str, float]:
    """Return the constraints as numbers.

    Raises:
        ValueError: A constraint is on something else than a known cost, or its bound is no finite number.
    """
    known = list(costs)
    for name, bound in constraints.items():
        if name not in known:
            raise ValueError(
                f"constraint on {name!r}{did_you_mean(name, known)}: it can be checked before training only for costs "
                f"({', '.join(known)}); give a function for it in costs"
            )
        if not isinstance(bound, int | float) or not math.isfinite(bound):
            raise ValueError(f"constraint {name}: {bound!r} should be a finite number, the largest value allowed")
    return {name: float(bound) for name, bound in constraints.items()}
