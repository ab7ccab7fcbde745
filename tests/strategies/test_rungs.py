"""Asynchronous successive halving, held to what it says of itself."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicenas.strategies import SuccessiveHalving

BOTH = {"accuracy": "maximize", "latency_ms": "minimize"}
points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=40)


def metrics(point: tuple[float, float]) -> dict[str, float]:
    return {"accuracy": point[0] / 10, "latency_ms": 1 + point[1]}


def dominates(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a != b and a[0] >= b[0] and a[1] <= b[1]


@given(points)
def test_the_first_goes_on_and_so_does_whoever_dominates_all_before(reported: list[tuple[int, int]]) -> None:
    halving = SuccessiveHalving((1,), 3, BOTH)  # type: ignore[arg-type]
    for number, point in enumerate(reported):
        goes_on = halving.goes_on(number, 1, metrics(point))
        if all(dominates(point, other) for other in reported[:number]):
            assert goes_on


@given(points, st.integers(2, 4))
def test_at_most_one_of_so_many_goes_on_and_nobody_who_is_dominated_by_as_many(
    reported: list[tuple[int, int]], factor: int
) -> None:
    halving = SuccessiveHalving((1,), factor, BOTH)  # type: ignore[arg-type]
    for number, point in enumerate(reported):
        goes_on = halving.goes_on(number, 1, metrics(point))
        if sum(dominates(other, point) for other in reported[:number]) >= max(1, (number + 1) // factor):
            assert not goes_on
    # Asked again once everybody is there, exactly the places are given.
    final = [halving.goes_on(number, 1, metrics(point)) for number, point in enumerate(reported)]
    assert sum(final) == max(1, len(reported) // factor)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40, unique=True))
def test_with_one_objective_the_best_third_goes_on(accuracies: list[float]) -> None:
    halving = SuccessiveHalving((2,), 3)
    for number, accuracy in enumerate(accuracies):
        better = sum(other > accuracy for other in accuracies[:number])
        assert halving.goes_on(number, 2, {"accuracy": accuracy}) == (better < max(1, (number + 1) // 3))


@given(points, st.randoms(use_true_random=False))
def test_a_session_that_records_what_was_there_decides_alike(reported: list[tuple[int, int]], rng: Random) -> None:
    *before, last = list(enumerate(reported))
    first, second = (SuccessiveHalving((1, 3), 3, BOTH) for _ in range(2))  # type: ignore[arg-type]
    for number, point in before:
        first.goes_on(number, 1, metrics(point))
    for number, point in rng.sample(before, len(before)):
        second.record(number, 1, metrics(point))
    assert first.goes_on(last[0], 1, metrics(last[1])) == second.goes_on(last[0], 1, metrics(last[1]))


def test_rungs_know_nothing_of_each_other_and_other_steps_end_nothing() -> None:
    halving = SuccessiveHalving((1, 3), 2)
    assert halving.goes_on(0, 1, {"accuracy": 0.9})
    assert not halving.goes_on(1, 1, {"accuracy": 0.5})
    assert halving.goes_on(1, 2, {})
    assert halving.goes_on(2, 3, {"accuracy": 0.1})


def test_what_was_interrupted_can_be_forgotten() -> None:
    halving = SuccessiveHalving((1,), 2)
    halving.record(0, 1, {"accuracy": 0.9})
    assert not halving.goes_on(1, 1, {"accuracy": 0.5})
    halving.forget([0])
    assert halving.goes_on(1, 1, {"accuracy": 0.5})


@pytest.mark.parametrize("bad", [{"accuracy": math.nan, "latency_ms": 0.1}, {"accuracy": 0.9, "latency_ms": math.inf}])
def test_what_is_no_number_does_not_go_on_and_displaces_nobody(bad: dict[str, float]) -> None:
    halving = SuccessiveHalving((1,), 2, BOTH)  # type: ignore[arg-type]
    assert not halving.goes_on(0, 1, bad)
    assert halving.goes_on(1, 1, {"accuracy": 0.5, "latency_ms": 2.0})


def test_every_objective_is_reported_at_a_rung() -> None:
    halving = SuccessiveHalving((1,), 2, BOTH)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"latency_ms are missing at a rung .reported: accuracy.; report every"):
        halving.goes_on(0, 1, {"accuracy": 0.5})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rungs": ()}, "ascending steps"),
        ({"rungs": (3, 1)}, "ascending steps"),
        ({"rungs": (0, 1)}, "at least 1"),
        ({"rungs": (1.5,)}, "ascending steps"),
        ({"reduction_factor": 1}, "integer of at least 2"),
        ({"reduction_factor": 2.5}, "integer of at least 2"),
        ({"objectives": ("acuracy",)}, "did you mean 'accuracy'"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SuccessiveHalving(**arguments)  # type: ignore[arg-type]
