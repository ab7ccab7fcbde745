"""Regularised evolution: Optuna's own contract for samplers, and what it does with architectures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from optuna.trial import TrialState, create_trial

from dicenas.space import SpaceSpec
from dicenas.strategies import EvolutionSampler
from dicenas.strategies.parameters import draw

SPACE = SpaceSpec("shufflenetv2", ("separable_k3", "dice_k3", "skip"), (0.5, 1.0), ((1, 2), (1, 3), (1,)))
DISTRIBUTIONS: dict[str, BaseDistribution] = {c.label: CategoricalDistribution(c.values) for c in SPACE.choices}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(verbosity)


class TestContract(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    """Optuna's tests; a small population, so that they meet mutations and not only random draws."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: EvolutionSampler(population_size=2, tournament_size=2)


def populated(
    points: list[tuple[float, ...]], directions: list[str], space: SpaceSpec = SPACE, rng: Random | None = None
) -> optuna.Study:
    """A study of random trials with these values."""
    study = optuna.create_study(directions=directions)
    rng = rng or Random(0)
    for values in points:
        params = {label: draw(distribution, rng) for label, distribution in DISTRIBUTIONS.items()}
        study.add_trial(create_trial(params=params, distributions=DISTRIBUTIONS, values=list(values)))
    return study


def architecture(params: dict[str, object]) -> object:
    active: dict[str, object] = {}
    for choice in SPACE.choices:
        if choice.active(active):
            active[choice.label] = params[choice.label]
    return SPACE.architecture(active)


def children(study: optuna.Study, sampler: EvolutionSampler, count: int) -> list[dict[str, object]]:
    study.sampler = sampler
    return [study.ask(DISTRIBUTIONS).params for _ in range(count)]


def test_a_child_is_one_mutation_from_its_parent() -> None:
    study = populated([(0.1,), (0.2,), (0.9,), (0.3,)], ["maximize"])
    parent = architecture(study.trials[2].params)
    sampler = EvolutionSampler(SPACE, population_size=4, tournament_size=4, seed=0)
    mutations = {SPACE.mutate(parent, Random(seed)).hash for seed in range(400)}
    bred = [architecture(params) for params in children(study, sampler, 20)]
    assert len(set(bred)) > 5
    assert {child.hash for child in bred} <= mutations


def test_the_oldest_leave_the_population_however_good_they_are() -> None:
    study = populated([(0.9,), (0.1,), (0.2,), (0.3,)], ["maximize"])
    sampler = EvolutionSampler(SPACE, population_size=3, tournament_size=3, seed=0)
    winner = sampler._winner(study.trials[-3:], study.directions)
    assert winner.number == 3
    from_the_best = {SPACE.mutate(architecture(study.trials[3].params), Random(seed)).hash for seed in range(400)}
    assert {architecture(params).hash for params in children(study, sampler, 10)} <= from_the_best


def test_the_first_front_wins_and_there_who_stands_alone() -> None:
    points = [(0.9, 9.0), (0.6, 5.0), (0.59, 4.9), (0.58, 4.8), (0.1, 1.0), (0.05, 8.0)]
    study = populated(points, ["maximize", "minimize"])
    sampler = EvolutionSampler(SPACE, population_size=6, tournament_size=6, seed=0)
    assert sampler._winner(study.trials, study.directions).number in {0, 4}  # the ends of the front
    dominated = EvolutionSampler(SPACE, population_size=6, tournament_size=1, seed=0)
    assert {dominated._winner(study.trials, study.directions).number for _ in range(99)} == set(range(6))


def test_who_violates_constraints_loses_to_who_violates_them_less() -> None:
    study = optuna.create_study()
    for value, excess in [(0.0, 3.0), (1.0, 2.0), (2.0, -1.0), (3.0, -5.0)]:
        trial = study.ask(DISTRIBUTIONS)
        trial.set_constraint("macs", excess)
        study.tell(trial, value)
    sampler = EvolutionSampler(population_size=4, tournament_size=4, seed=0)
    assert sampler._winner(study.trials, study.directions).number == 2
    assert sampler._winner(study.trials[:2] * 2, study.directions).number == 1


def test_the_sampler_holds_nothing_that_the_study_does_not() -> None:
    """A new sampler, as of another session or process, breeds from the same parents as the old one."""
    study = populated([(0.1 * i,) for i in range(6)], ["maximize"])
    for state in (TrialState.FAIL, TrialState.PRUNED):
        study.add_trial(create_trial(state=state, params={}, distributions={}))
    settings = {"population_size": 3, "tournament_size": 3, "seed": 7}
    old = EvolutionSampler(SPACE, **settings)
    assert children(study, old, 2) != children(study, old, 2)
    fresh = [children(study, EvolutionSampler(SPACE, **settings), 3) for _ in range(2)]
    assert fresh[0] == fresh[1]


def test_parameters_of_a_foreign_space_mutate_one_at_a_time() -> None:
    space: dict[str, BaseDistribution] = {
        "op": CategoricalDistribution(["a", "b", "c"]),
        "depth": IntDistribution(1, 9),
        "rate": FloatDistribution(1e-4, 1.0, log=True),
        "fixed": CategoricalDistribution([1]),
    }
    sampler = EvolutionSampler(population_size=2, tournament_size=2, seed=0)
    study = optuna.create_study(sampler=sampler)
    for value in (1.0, 0.0):
        study.tell(study.ask(space), value)
    parent = study.trials[1].params
    for _ in range(20):
        child = study.ask(space).params
        changed = {name for name in space if child[name] != parent[name]}
        assert len(changed) <= 1
        assert changed <= {"op", "depth", "rate"}


@st.composite
def distributions(draw_: st.DrawFn) -> BaseDistribution:
    kind = draw_(st.sampled_from(["categorical", "int", "int step", "int log", "float", "float step", "float log"]))
    low, width = draw_(st.integers(1, 5)), draw_(st.integers(0, 9))
    if kind == "categorical":
        return CategoricalDistribution(list(range(width + 1)))
    log, step = "log" in kind, "step" in kind
    if "int" in kind:
        return IntDistribution(low, low + 2 * width, log=log, step=2 if step else 1)
    return FloatDistribution(low, low + 0.5 * width, log=log, step=0.25 if step else None)


@given(distributions(), st.randoms(use_true_random=False))
def test_what_is_drawn_is_of_the_distribution(distribution: BaseDistribution, rng: Random) -> None:
    value = draw(distribution, rng)
    assert distribution._contains(distribution.to_internal_repr(value))
    assert distribution.to_external_repr(distribution.to_internal_repr(value)) == value
    if isinstance(distribution, CategoricalDistribution) and len(distribution.choices) > 1:
        assert draw(distribution, rng, other_than=value) != value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"population_size": 1}, "population_size 1 should be at least 2"),
        ({"tournament_size": 0}, "tournament_size 0 should be 1 to population_size 20"),
        ({"population_size": 4}, "tournament_size 10 should be 1 to population_size 4"),
    ],
)
def test_bad_sizes_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvolutionSampler(**arguments)  # type: ignore[arg-type]
