"""Pareto fronts over any number of objectives, and how good they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

__all__ = ["DIRECTIONS", "Direction", "default_direction", "hypervolume", "pareto_front"]

Direction: TypeAlias = Literal["maximize", "minimize"]

#: What is known to be better more or less of; any other metric is minimised unless told otherwise.
DIRECTIONS: dict[str, Direction] = {
    "accuracy": "maximize",
    "latency_ms": "minimize",
    "macs": "minimize",
    "params": "minimize",
    "peak_memory_mb": "minimize",
    "proxy_score": "maximize",
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
    losses = _losses(points, objectives)

    def dominated(loss: tuple[float, ...]) -> bool:
        return any(other != loss and all(a <= b for a, b in zip(other, loss, strict=True)) for other in losses)

    return sorted((i for i, loss in enumerate(losses) if not dominated(loss)), key=lambda i: losses[i])


def hypervolume(
    points: Sequence[Mapping[str, float]], objectives: Mapping[str, Direction], reference: Mapping[str, float]
) -> float:
    """Return the volume that is dominated by points and dominates a reference point (Zitzler and Thiele, 1998).

    Args:
        points: Metrics of each point; they may hold more than the objectives.
        objectives: Name and direction of each objective.
        reference: A value of each objective that is worse than those wanted. Points that are no better than it in
            some objective add nothing.

    Returns:
        The volume, in the product of the objectives' units.

    Raises:
        ValueError: A direction is neither ``"maximize"`` nor ``"minimize"``.
    """
    (limit,) = _losses([reference], objectives)
    inside = [loss for loss in _losses(points, objectives) if all(a < b for a, b in zip(loss, limit, strict=True))]
    return _volume(inside, limit)


def _volume(losses: Sequence[tuple[float, ...]], limit: tuple[float, ...]) -> float:
    """Slice along the last objective: between two of its values the same points count."""
    if not losses:
        return 0.0
    if len(limit) == 1:
        return limit[0] - min(loss[0] for loss in losses)
    levels = sorted({loss[-1] for loss in losses})
    volume = 0.0
    for level, above in zip(levels, [*levels[1:], limit[-1]], strict=True):
        volume += (above - level) * _volume([loss[:-1] for loss in losses if loss[-1] <= level], limit[:-1])
    return volume


def _losses(points: Sequence[Mapping[str, float]], objectives: Mapping[str, Direction]) -> list[tuple[float, ...]]:
    """Return the points as tuples in which less is better."""
    for name, direction in objectives.items():
        if direction not in ("maximize", "minimize"):
            raise ValueError(f"objective {name!r}: direction {direction!r} is neither 'maximize' nor 'minimize'")
    signs = {name: -1.0 if direction == "maximize" else 1.0 for name, direction in objectives.items()}
    return [tuple(sign * point[name] for name, sign in signs.items()) for point in points]
