"""Which of many architectures to evaluate first, by a score that promises accuracy and by what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dicenas.architecture import Architecture
from dicenas.strategies.ranking import best_first

__all__ = ["most_promising_first"]


def most_promising_first(
    scores: Mapping[Architecture, float], costs: Sequence[Mapping[Architecture, float]]
) -> list[Architecture]:
    """Return architectures in the order in which they are worth evaluating.

    They come front by front, those first that stand alone in theirs (the order of NSGA-II's survival), so that the
    first few are of all costs. Scores count by their rank, as a score of untrained networks is no measure of accuracy,
    and costs do for the same distances.

    Args:
        scores: A score of each, more is better.
        costs: What each costs, less is better, NaN is worst; none for the order of the scores.
    """
    architectures = list(scores)
    columns = [[-scores[a] for a in architectures], *([cost[a] for a in architectures] for cost in costs)]
    # Equal values have equal ranks; NaN ranks last.
    ranks = [np.unique(column, return_inverse=True)[1] for column in columns]
    return [architectures[index] for index in best_first(np.stack(ranks, axis=1))] if architectures else []
