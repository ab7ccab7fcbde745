"""Fronts and crowding, against their definitions and Optuna's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicenas.strategies.ranking import best_first, crowding_distances, domination_ranks


@st.composite
def tables(draw: st.DrawFn) -> list[list[float]]:
    width = draw(st.integers(1, 3))
    value = st.sampled_from([0.0, 1.0, 2.0, 3.5, math.inf])
    return draw(st.lists(st.lists(value, min_size=width, max_size=width), min_size=1, max_size=15))


@given(tables())
def test_ranks_are_one_more_than_the_highest_rank_that_dominates(losses: list[list[float]]) -> None:
    ranks = domination_ranks(losses)
    for rank, loss in zip(ranks, losses, strict=True):
        above = [
            other_rank
            for other_rank, other in zip(ranks, losses, strict=True)
            if other != loss and all(a <= b for a, b in zip(other, loss, strict=True))
        ]
        assert rank == max(above, default=-1) + 1


@given(tables())
def test_best_first_is_an_order_by_rank_that_no_shuffling_changes(losses: list[list[float]]) -> None:
    order = best_first(losses)
    assert sorted(order) == list(range(len(losses)))
    ranks = domination_ranks(losses)[order]
    assert (np.diff(ranks) >= 0).all()
    backwards = best_first(losses[::-1])
    assert domination_ranks(losses[::-1])[backwards].tolist() == ranks.tolist()


def test_crowding_distance_is_that_of_the_paper() -> None:
    front = [[0.0, 4.0], [1.0, 2.0], [2.0, 1.0], [4.0, 0.0]]
    distances = crowding_distances(front, np.zeros(4, np.int64))
    assert distances.tolist() == [math.inf, 2 / 4 + 3 / 4, 3 / 4 + 2 / 4, math.inf]
    # Fronts do not crowd each other, and an objective in which all are alike tells nothing.
    assert crowding_distances([[1.0, 1.0], [1.0, 1.0]], np.zeros(2, np.int64)).tolist() == [0.0, 0.0]
    both = crowding_distances([*front, [9.0, 9.0]], np.array([0, 0, 0, 0, 1]))
    assert both.tolist() == [*distances.tolist(), 0.0]


def test_losses_are_a_table() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\) should be \(points, objectives\)"):
        domination_ranks([1.0, 2.0, 3.0])
