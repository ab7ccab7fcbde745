"""Pareto fronts against their definition."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicenas.pareto import DIRECTIONS, Direction, default_direction, pareto_front

values = st.integers(0, 4).map(float)
directions: st.SearchStrategy[Direction] = st.sampled_from(("maximize", "minimize"))


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[dict[str, float]], dict[str, Direction]]:
    objectives = {f"m{i}": draw(directions) for i in range(draw(st.integers(1, 3)))}
    point = st.fixed_dictionaries(dict.fromkeys([*objectives, "unused"], values))
    return draw(st.lists(point, max_size=12)), objectives


@given(problems())
def test_front_is_what_nothing_dominates(problem: tuple[list[dict[str, float]], dict[str, Direction]]) -> None:
    points, objectives = problem

    def gain(point: dict[str, float]) -> list[float]:
        return [point[name] if direction == "maximize" else -point[name] for name, direction in objectives.items()]

    def dominates(one: dict[str, float], other: dict[str, float]) -> bool:
        pairs = list(zip(gain(one), gain(other), strict=True))
        return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

    front = pareto_front(points, objectives)
    assert sorted(front) == [i for i, point in enumerate(points) if not any(dominates(p, point) for p in points)]
    gains = [gain(points[i]) for i in front]
    assert gains == sorted(gains, reverse=True)
    assert bool(front) == bool(points)


def test_one_objective_keeps_the_best_and_its_equals() -> None:
    points = [{"accuracy": 0.5}, {"accuracy": 0.9}, {"accuracy": 0.9}]
    assert pareto_front(points, {"accuracy": "maximize"}) == [1, 2]


def test_directions() -> None:
    assert default_direction("accuracy") == "maximize"
    assert default_direction("my_loss") == "minimize"
    assert {default_direction(name) for name in DIRECTIONS if name != "accuracy"} == {"minimize"}


def test_misspelt_direction_is_refused() -> None:
    wrong: Any = {"accuracy": "maximise"}
    with pytest.raises(ValueError, match="'accuracy': direction 'maximise' is neither 'maximize' nor 'minimize'"):
        pareto_front([{"accuracy": 1.0}], wrong)
