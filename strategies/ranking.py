"""Who is better than whom where several objectives count: fronts, and how crowded they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["best_first", "crowding_distances", "domination_ranks"]

Floats = NDArray[np.float64]


def domination_ranks(losses: ArrayLike) -> NDArray[np.int64]:
    """Return the front of each point: 0 where no point dominates it, 1 where only those of front 0 do, and so on.

    Args:
        losses: ``(points, objectives)``, less is better.
    """
    points = _table(losses)
    if points.shape[1] == 1:
        ranks: NDArray[np.int64] = np.unique(points[:, 0], return_inverse=True)[1].astype(np.int64)
        return ranks
    no_worse: NDArray[np.bool_] = np.all(points[:, None] <= points[None], axis=-1)
    dominates = no_worse & ~no_worse.T
    dominators = dominates.sum(0)
    ranks = np.full(len(points), -1, np.int64)
    rank = 0
    while (ranks < 0).any():
        front = (dominators == 0) & (ranks < 0)
        ranks[front] = rank
        dominators = dominators - dominates[front].sum(0)
        rank += 1
    return ranks


def crowding_distances(losses: ArrayLike, ranks: NDArray[np.int64]) -> Floats:
    """Return how far the neighbours of each point in its front are; infinite at the ends (NSGA-II, section III B).

    Args:
        losses: ``(points, objectives)``.
        ranks: The front of each point.
    """
    points = _table(losses)
    distances = np.zeros(len(points))
    for rank in np.unique(ranks):
        members = np.flatnonzero(ranks == rank)
        for values in points[members].T:
            order = np.argsort(values, kind="stable")
            ordered = values[order]
            if ordered[0] == ordered[-1]:  # all are the same: nobody stands alone
                continue
            width = ordered[-1] - ordered[0]
            gaps = np.full(len(members), np.inf)
            if np.isfinite(width):
                gaps[1:-1] = (ordered[2:] - ordered[:-2]) / width
            distances[members[order]] += gaps
    return distances


def best_first(losses: ArrayLike) -> NDArray[np.int64]:
    """Return the indices of the points in their order: by front, then the less crowded, then the first objective.

    Args:
        losses: ``(points, objectives)``, less is better.
    """
    points = _table(losses)
    ranks = domination_ranks(points)
    order: NDArray[np.int64] = np.lexsort((points[:, 0], -crowding_distances(points, ranks), ranks))
    return order


def _table(losses: ArrayLike) -> Floats:
    points = np.asarray(losses, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(f"losses of shape {points.shape} should be (points, objectives)")
    return points
