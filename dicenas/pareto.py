"""Pareto fronts over any number of objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

__all__ = ["DIRECTIONS", "Direction", "default_direction", "pareto_front"]

Direction: TypeAlias = Literal["maximize", "minimize"]

#: What is known to be better more or less of; any other metric is minimised unless told otherwise.
DIRECTIONS: dict[str, Direction] = {
    "accuracy": "maximize",
    "latency_ms": "minimize",
    "macs": "minimize",
    "params": "minimize",
    "peak_memory_mb": "minimize",
}


def default_direction(objective: str) -> Direction:
    """Return the direction in which an objective is better."""
    return DIRECTIONS.get(objective, "minimize")


def pareto_front(points: Sequence[Mapping[str, float]], objectives: Mapping[str, Direction]) -> list[int]:
    """Return the indices of the points that no other point dominates, best first objective first.

    A point dominates another when it is no worse in every objective and better in one. Of equal points all stay.

    Args:
        points: Metrics of each point; they may hold more than the objectives.
        objectives: Name and direction of each objective.

    Raises:
        ValueError: A direction is neither ``"maximize"`` nor ``"minimize"``.
    """
    for name, direction in objectives.items():
        if direction not in ("maximize", "minimize"):
            raise ValueError(f"objective {name!r}: direction {direction!r} is neither 'maximize' nor 'minimize'")
    signs = {name: -1.0 if direction == "maximize" else 1.0 for name, direction in objectives.items()}
    losses = [tuple(sign * point[name] for name, sign in signs.items()) for point in points]

    def dominated(loss: tuple[float, ...]) -> bool:
        return any(other != loss and all(a <= b for a, b in zip(other, loss, strict=True)) for other in losses)

    return sorted((i for i, loss in enumerate(losses) if not dominated(loss)), key=lambda i: losses[i])
