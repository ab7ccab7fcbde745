"""What is evaluated first, of what a score promises."""

from __future__ import annotations

from random import Random

import pytest
from optuna.distributions import CategoricalDistribution

from dicenas.architecture import Architecture
from dicenas.space import SpaceSpec
from dicenas.strategies import ArchitectureStudy, most_promising_first

SPACE = SpaceSpec(
    "shufflenetv2",
    ("separable_k3", "dice_k3", "skip"),
    (0.2, 0.5),
    ((1, 2), (1,), (1,)),
    stems=("small",),
    resolutions=(16,),
    num_classes=10,
)
SAMPLE = list(dict.fromkeys(SPACE.random(Random(number)) for number in range(40)))


def macs(architecture: Architecture) -> float:
    return SPACE.cost(architecture).macs


def test_fronts_come_one_after_the_other() -> None:
    a, b, c, d, e = SAMPLE[:5]
    # The front is a, b, c, of which a and c stand at its ends; e is worse than d in both.
    scores = {a: 9.0, b: 5.0, c: 1.0, d: 0.9, e: 0.1}
    costs = {a: 100.0, b: 5.0, c: 1.0, d: 7.0, e: 8.0}
    order = most_promising_first(dict(reversed(scores.items())), [costs])
    assert set(order[:2]) == {a, c}
    assert order[2:] == [b, d, e]


def test_only_the_order_of_scores_counts() -> None:
    rng = Random(0)
    scores = {architecture: rng.random() for architecture in SAMPLE}
    costs = [{architecture: macs(architecture) for architecture in SAMPLE}]
    order = most_promising_first(scores, costs)
    assert most_promising_first({a: 1e9 * score**20 for a, score in scores.items()}, costs) == order
    assert most_promising_first(scores, []) == sorted(scores, key=lambda a: -scores[a])
    assert most_promising_first({}, []) == []


def test_the_first_trials_are_the_most_promising_that_meet_the_bounds(caplog: pytest.LogCaptureFixture) -> None:
    bound = sorted(map(macs, SAMPLE))[len(SAMPLE) // 2]
    asked: list[Architecture] = []

    def latency_ms(architecture: Architecture) -> float:
        asked.append(architecture)
        return macs(architecture) / 1e6

    def study() -> ArchitectureStudy:
        return ArchitectureStudy(
            SPACE,
            "random",
            ("accuracy", "latency_ms"),
            constraints={"macs": bound},
            costs={"latency_ms": latency_ms},
            seed=0,
        )

    scores = {architecture: Random(architecture.hash).random() for architecture in SAMPLE}
    searched = study()
    first = searched.enqueue_promising(scores, 5)
    within = {a: score for a, score in scores.items() if macs(a) <= bound}
    assert first == most_promising_first(within, [{a: macs(a) for a in within}])[:5]
    assert set(asked) == set(first)  # MACs stand in for what takes long
    assert [searched.ask().architecture for _ in first] == first
    # In a session that takes the search up the same are wanted, and no others.
    assert searched.enqueue_promising(scores, 5) == first
    assert searched.ask().architecture not in first
    with caplog.at_level("WARNING"):
        assert len(study().enqueue_promising(scores, 1000)) == len(within)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told == [f"of {len(SAMPLE)} scored architectures {len(within)} meet the constraints: 1000 were wanted"]


def test_costs_that_are_quickly_told_are_asked() -> None:
    cost = {architecture: Random(f"cost {architecture.hash}").random() for architecture in SAMPLE}
    study = ArchitectureStudy(
        SPACE,
        "random",
        ("accuracy", "latency_ms"),
        costs={"latency_ms": cost.__getitem__},
        cheap_costs=("latency_ms",),
    )
    scores = {architecture: Random(architecture.hash).random() for architecture in SAMPLE}
    assert study.enqueue_promising(scores, 8) == most_promising_first(scores, [cost])[:8]


def test_other_spaces_have_no_architectures() -> None:
    study = ArchitectureStudy({"x": CategoricalDistribution((1, 2))}, "random", ("accuracy",))
    with pytest.raises(ValueError, match="only a study over a SpaceSpec"):
        study.enqueue_promising({}, 1)
