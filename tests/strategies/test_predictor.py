"""The sampler that learns what choices are worth."""

from __future__ import annotations

import statistics
from random import Random

import optuna
import pytest

from dicenas.architecture import Architecture
from dicenas.cost.predict import MissingBlockError
from dicenas.pareto import Direction, hypervolume
from dicenas.space import SpaceSpec
from dicenas.strategies import ArchitectureStudy, PredictorSampler, make_sampler

SPACE = SpaceSpec(
    "mobilenetv2",
    ("separable_k3", "separable_k5", "dice_k3", "skip"),
    (0.25, 0.5),
    ((1,), (1, 2), (1, 2), (1, 3), (1,), (1, 2), (1,)),
    stems=("small",),
    resolutions=(32,),
    num_classes=10,
)
WORTH = {"separable_k3": 0.02, "separable_k5": 0.03, "dice_k3": 0.05, "skip": 0.0}


def accuracy(architecture: Architecture) -> float:
    """Blocks add up, with a little that is each architecture's own."""
    blocks = [name for stage in architecture.stages for name in stage]
    noise = Random(architecture.hash).gauss(0, 0.002)
    return architecture.width + sum(WORTH[name] for name in blocks) + noise


def found(sampler: str, seed: int, trials: int = 30) -> ArchitectureStudy:
    study = ArchitectureStudy(SPACE, sampler, ("accuracy", "macs"), seed=seed)
    while study.remaining(trials):
        proposal = study.ask()
        assert proposal.architecture is not None
        study.tell(proposal, {"accuracy": accuracy(proposal.architecture)})
    return study


def test_finds_more_than_random_search() -> None:
    objectives: dict[str, Direction] = {"accuracy": "maximize", "macs": "minimize"}
    reference = {"accuracy": 0.2, "macs": 12e6}

    def volume(sampler: str) -> float:
        fronts = [found(sampler, seed).best_trials for seed in range(3)]
        points = [[dict(zip(objectives, trial.values, strict=True)) for trial in front] for front in fronts]
        return statistics.fmean(hypervolume(front, objectives, reference) for front in points)

    assert volume("predictor") > 1.03 * volume("random")


def test_proposals_are_new_points_of_the_space() -> None:
    study = found("predictor", 1, 20)
    hashes = [trial.user_attrs["architecture_hash"] for trial in study.trials]
    assert len(set(hashes)) == len(hashes) == 20


def test_bounds_on_costs_leave_it_the_best_of_what_meets_them() -> None:
    # The most accurate architectures of all break the bound.
    study = ArchitectureStudy(SPACE, "predictor", ("accuracy",), constraints={"macs": 2.5e6}, seed=0)
    while study.remaining(25):
        proposal = study.ask()
        assert proposal.architecture is not None
        study.tell(proposal, {"accuracy": accuracy(proposal.architecture)})
    bounded = [a for a in (SPACE.random(Random(n)) for n in range(400)) if SPACE.cost(a).macs <= 2.5e6]
    assert study.best_trials[0].values[0] > sorted(map(accuracy, bounded))[-4]
    # Those that begin the search are drawn at random.
    assert study.counts.infeasible < 40


def test_costs_that_are_quickly_told_are_not_modelled() -> None:
    # What a line through the choices cannot follow.
    def latency_ms(architecture: Architecture) -> float:
        return Random(architecture.hash).uniform(1, 2)

    def median(cheap: tuple[str, ...]) -> float:
        costs = {"latency_ms": latency_ms}
        study = ArchitectureStudy(SPACE, "predictor", ("latency_ms",), costs=costs, cheap_costs=cheap, seed=0)
        while study.remaining(20):
            study.tell(study.ask(), {})
        return statistics.median(trial.values[0] for trial in study.trials[8:])

    assert median(("latency_ms",)) < 1.02 < 1.2 < median(())


def test_costs_that_trials_contradict_are_modelled() -> None:
    study = ArchitectureStudy(SPACE, "predictor", ("macs",), seed=0)
    while study.remaining(20):
        proposal = study.ask()
        assert proposal.architecture is not None
        study.tell(proposal, {"macs": 1 / proposal.costs["macs"]})
    late = statistics.median(trial.user_attrs["costs"]["macs"] for trial in study.trials[12:])
    assert late > 2 * statistics.median(trial.user_attrs["costs"]["macs"] for trial in study.trials[:8])


def test_what_a_cost_cannot_tell_is_no_reason_to_fail() -> None:
    def latency_ms(architecture: Architecture) -> float:
        if architecture.width == 0.5:
            raise MissingBlockError("no time for it")
        return SPACE.cost(architecture).macs / 1e6

    study = ArchitectureStudy(
        SPACE, "predictor", ("latency_ms",), costs={"latency_ms": latency_ms}, cheap_costs=("latency_ms",), seed=0
    )
    while study.remaining(12):
        study.tell(study.ask(), {})
    assert {study.proposal(trial).architecture.width for trial in study.trials} == {0.25}  # type: ignore[union-attr]


def test_cheap_costs_without_a_function_are_refused() -> None:
    with pytest.raises(ValueError, match="cheap_costs energy_mj: costs has no such function"):
        ArchitectureStudy(SPACE, "predictor", ("macs",), cheap_costs=("energy_mj",))


def test_what_failed_or_is_being_evaluated_is_not_proposed() -> None:
    study = found("predictor", 2, 10)
    for number in range(12):
        proposal = study.ask()
        if number % 2:
            study.fail(proposal, "no memory")
    assert study.counts.duplicate == 0


def test_one_seed_gives_one_search() -> None:
    first, second = ([t.params for t in found("predictor", 5, 15).trials] for _ in range(2))
    assert first == second


def test_small_spaces_are_searched_to_the_end() -> None:
    space = SpaceSpec("shufflenetv2", ("separable_k3", "dice_k3"), (0.1, 0.5), ((1,), (1,), (1,)), block_ops={
        f"s{stage}_b0": ("separable_k3",) for stage in (1, 2, 3)
    })  # fmt: skip
    study = ArchitectureStudy(space, "predictor", ("accuracy",), seed=0)
    for _ in range(space.size):
        study.tell(study.ask(), {"accuracy": 0.5})  # nothing to learn from
    assert study.finished == space.size == 16


def test_parameters_of_other_spaces_are_refused() -> None:
    with pytest.raises(ValueError, match="'predictor' needs the architectures of a SpaceSpec"):
        make_sampler("predictor")
    distributions = {"x": optuna.distributions.CategoricalDistribution((1, 2))}
    with pytest.raises(ValueError, match="'predictor' needs the architectures of a SpaceSpec"):
        ArchitectureStudy(distributions, "predictor", ("accuracy",))


@pytest.mark.parametrize("argument", ["startup_trials", "candidates"])
def test_numbers_that_leave_no_choice_are_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} 1 should be at least 2"):
        PredictorSampler(SPACE, **{argument: 1})
