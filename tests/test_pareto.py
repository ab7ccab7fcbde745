"""Pareto fronts against their definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymoo.indicators.hv import HV

from dicenas.pareto import DIRECTIONS, Direction, default_direction, hypervolume, pareto_front

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
    assert {default_direction(name) for name in DIRECTIONS if name not in ("accuracy", "proxy_score")} == {"minimize"}


def test_misspelt_direction_is_refused() -> None:
    wrong: Any = {"accuracy": "maximise"}
    with pytest.raises(ValueError, match="'accuracy': direction 'maximise' is neither 'maximize' nor 'minimize'"):
        pareto_front([{"accuracy": 1.0}], wrong)


@given(problems(), st.data())
def test_hypervolume_is_that_of_pymoo(
    problem: tuple[list[dict[str, float]], dict[str, Direction]], data: st.DataObject
) -> None:
    points, objectives = problem
    reference = data.draw(st.fixed_dictionaries(dict.fromkeys(objectives, values)))
    signs = [-1 if direction == "maximize" else 1 for direction in objectives.values()]
    expected = 0.0
    if points:
        losses = np.array([[point[name] for name in objectives] for point in points]) * signs
        limit = np.array([reference[name] for name in objectives]) * signs
        expected = HV(ref_point=limit)(losses)
    assert hypervolume(points, objectives, reference) == pytest.approx(expected)


def test_hypervolume_of_one_and_two_boxes() -> None:
    objectives: dict[str, Direction] = {"accuracy": "maximize", "latency_ms": "minimize"}
    reference = {"accuracy": 0.5, "latency_ms": 10.0}
    one = {"accuracy": 0.9, "latency_ms": 6.0}
    other = {"accuracy": 0.7, "latency_ms": 2.0}
    assert hypervolume([one], objectives, reference) == pytest.approx(0.4 * 4)
    assert hypervolume([one, other], objectives, reference) == pytest.approx(0.4 * 4 + 0.2 * 4)
    assert hypervolume([one, {"accuracy": 0.4, "latency_ms": 1.0}], objectives, reference) == pytest.approx(0.4 * 4)
    assert hypervolume([], objectives, reference) == 0
