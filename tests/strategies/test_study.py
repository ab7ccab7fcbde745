"""Studies of architectures with a cheap fake evaluation."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from dicenas.architecture import Architecture
from dicenas.config import SAMPLERS as CONFIG_SAMPLERS
from dicenas.cost import peak_memory_mb
from dicenas.nets import build
from dicenas.space import SpaceSpec
from dicenas.strategies import (
    SAMPLERS,
    ArchitectureStudy,
    InfeasibleConstraintError,
    Outcome,
    Proposal,
    SpaceExhaustedError,
    make_sampler,
    parse_objectives,
)

SPACE = SpaceSpec(
    "shufflenetv2",
    ops=("separable", "dice_k3", "skip"),
    widths=(0.5, 0.75, 1.0),
    depths=((1, 2), (1, 2, 3), (1, 2)),
    stems=("small",),
    resolutions=(32,),
    num_classes=10,
)
TINY = SpaceSpec(
    "shufflenetv2",
    ops=("separable_k3", "dice_k3"),
    widths=(0.5,),
    depths=((1, 2), (1,), (1,)),
    stems=("small",),
    resolutions=(32,),
    num_classes=10,
)
# Few architectures, many samples of each: where the skips stand makes no difference.
ALIASED = SpaceSpec(
    "shufflenetv2",
    ops=("separable_k3", "skip"),
    widths=(0.5,),
    depths=((1,), (1, 2), (1,)),
    stems=("small",),
    resolutions=(32,),
    num_classes=10,
)
SMALLEST = SPACE.minimum("macs")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(verbosity)


def accuracy(architecture: Architecture) -> float:
    """A made-up accuracy that larger kernels, DiCE units and width raise."""
    ops = [op for stage in architecture.stages for op in stage]
    return 0.5 + 0.1 * architecture.width + sum({"dice_k3": 0.02, "separable_k7": 0.01}.get(op, 0.0) for op in ops)


def search(study: ArchitectureStudy, total: int) -> list[Proposal]:
    study.recover()
    proposals = []
    while study.remaining(total):
        proposal = study.ask()
        assert proposal.architecture is not None
        proposals.append(proposal)
        study.tell(proposal, {"accuracy": accuracy(proposal.architecture)})
    return proposals


def hashes(proposals: list[Proposal]) -> list[str]:
    return [proposal.hash for proposal in proposals]


# Samplers


def test_the_configuration_knows_the_same_samplers() -> None:
    assert set(SAMPLERS) == set(CONFIG_SAMPLERS)


@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "macs", "params")], ids=["one", "three"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_takes_constraints_and_any_number_of_objectives(
    sampler: str, objectives: tuple[str, ...]
) -> None:
    bound = 1.6 * SMALLEST
    # The first ten trials of tpe and gp are random.
    study = ArchitectureStudy(SPACE, sampler, objectives, constraints={"macs": bound}, seed=1)
    proposals = search(study, 12)
    assert len(set(hashes(proposals))) == study.finished == 12
    assert all(SPACE.cost(p.architecture).macs <= bound for p in proposals if p.architecture)
    best = study.best_trials[0]
    assert best.values[0] == max(trial.values[0] for trial in study.trials)
    assert len(best.values) == len(objectives)


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_a_seed_fixes_the_search(sampler: str) -> None:
    def run(seed: int) -> list[str]:
        constraints = {"macs": 2 * SMALLEST}
        return hashes(
            search(ArchitectureStudy(SPACE, sampler, ("accuracy", "macs"), constraints=constraints, seed=seed), 25)
        )

    assert run(5) == run(5)
    assert run(5) != run(6)


@pytest.mark.parametrize("sampler", ["evolution", "nsga2", "nsga3"])
def test_genetic_samplers_search(sampler: str) -> None:
    """They beat random search clearly, conditional choices included."""

    def best(sampler: str, seed: int) -> float:
        study = ArchitectureStudy(SPACE, sampler, ("accuracy",), seed=seed)
        search(study, 60)
        return study.best_trials[0].values[0]

    assert sum(best(sampler, seed) - best("random", seed) for seed in range(3)) > 0


def test_unknown_samplers_are_refused_with_a_suggestion() -> None:
    with pytest.raises(ValueError, match="'nsga-2'; did you mean 'nsga2'"):
        ArchitectureStudy(SPACE, "nsga-2", ("accuracy",))


def test_gp_without_scipy_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="'gp' needs scipy"):
        make_sampler("gp")


def test_the_study_needs_no_nni() -> None:
    code = "import sys, dicenas.strategies; sys.exit('nni' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


# Objectives


@pytest.mark.parametrize(
    ("objectives", "directions", "message"),
    [
        ((), None, "one name or more"),
        ("accuracy", None, "sequence of names"),
        (("accuracy", "accuracy"), None, "each given once"),
        (("acuracy",), None, "did you mean 'accuracy'"),
        (("energy",), None, "with its direction: {'energy': 'maximize'}"),
        (("accuracy", "macs"), ("maximize",), "2 objectives and 1 directions"),
        (("accuracy",), ("upwards",), "neither 'maximize' nor 'minimize'"),
        ({"accuracy": "maximize"}, ("maximize",), "leave directions out"),
    ],
)
def test_bad_objectives_are_refused(objectives: object, directions: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_objectives(objectives, directions)  # type: ignore[arg-type]


def test_objectives_have_their_usual_directions_or_the_given_ones() -> None:
    assert parse_objectives(("accuracy", "latency_ms")) == {"accuracy": "maximize", "latency_ms": "minimize"}
    assert parse_objectives(("f1",), ("maximize",)) == parse_objectives({"f1": "maximize"}) == {"f1": "maximize"}


def test_latency_needs_a_source() -> None:
    with pytest.raises(ValueError, match="'latency_ms' has no source"):
        ArchitectureStudy(SPACE)


# Constraints


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ({"mac": 1e6}, "did you mean 'macs'"),
        ({"accuracy": 0.5}, "before training only for costs"),
        ({"macs": math.nan}, "finite number"),
        ({"macs": "60M"}, "finite number"),
    ],
)
def test_bad_constraints_are_refused(constraints: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArchitectureStudy(SPACE, objectives=("accuracy",), constraints=constraints)


def test_a_bound_below_the_space_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    with pytest.raises(InfeasibleConstraintError, match=rf"macs <= {SMALLEST - 1:,} .* value .* is {SMALLEST:,}"):
        ArchitectureStudy(SPACE, objectives=("accuracy",), constraints={"macs": SMALLEST - 1}, storage=storage)
    assert not list(tmp_path.iterdir())
    ArchitectureStudy(SPACE, objectives=("accuracy",), constraints={"macs": SMALLEST})


def test_costs_are_counted_at_the_size_of_deployment() -> None:
    smallest = SPACE.minimum("macs", 224)
    with pytest.raises(InfeasibleConstraintError, match="at 224 pixels"):
        ArchitectureStudy(SPACE, objectives=("accuracy",), constraints={"macs": smallest - 1}, image_size=224)
    proposal = ArchitectureStudy(SPACE, objectives=("accuracy",), image_size=224).ask()
    assert proposal.architecture is not None
    assert proposal.costs["macs"] == SPACE.cost(proposal.architecture.at_size(224)).macs


def test_the_tightest_bound_finds_the_only_architecture() -> None:
    """Of hundred thousands one meets the bound; drawing at random would not find it."""
    study = ArchitectureStudy(SPACE, "random", ("accuracy",), constraints={"macs": SMALLEST}, seed=0)
    assert SPACE.size > 100_000
    assert study.ask().costs["macs"] == SMALLEST


def test_infeasible_proposals_are_drawn_again_with_a_count() -> None:
    bound = 1.5 * SMALLEST
    study = ArchitectureStudy(SPACE, "random", ("accuracy",), constraints={"params": 1e9, "macs": bound}, seed=0)
    search(study, 8)
    assert [trial.number for trial in study.study.trials] == list(range(8))
    assert study.counts.evaluated == 8
    assert study.counts.infeasible > 8
    assert study.counts.unmeasured == 0
    assert str(study.counts).startswith(f"8 evaluated; drawn again: {study.counts.infeasible} infeasible, ")
    for trial in study.trials:
        architecture = study.proposal(trial).architecture
        assert architecture is not None
        assert trial.constraints == {
            "macs": SPACE.cost(architecture).macs - bound,
            "params": SPACE.cost(architecture).params - 1e9,
        }
        assert max(trial.constraints.values()) <= 0


def test_costs_are_computed_cheapest_first_and_once_for_each_architecture() -> None:
    calls: list[tuple[str, str]] = []

    def counted(name: str, value: Callable[[Architecture], float]) -> Callable[[Architecture], float]:
        def cost(architecture: Architecture) -> float:
            calls.append((name, architecture.hash))
            return value(architecture)

        return cost

    costs = {
        "latency_ms": counted("latency_ms", lambda a: SPACE.cost(a).macs / 1e6),
        "macs": counted("macs", lambda a: SPACE.cost(a).macs),
    }
    constraints = {"latency_ms": 1e9, "macs": 1.5 * SMALLEST}
    study = ArchitectureStudy(SPACE, "nsga2", ("accuracy", "latency_ms"), constraints=constraints, costs=costs, seed=0)
    search(study, 10)
    assert len(set(calls)) == len(calls)
    measured = {digest for name, digest in calls if name == "latency_ms"}
    assert measured == {trial.user_attrs["architecture_hash"] for trial in study.trials}


def test_an_unreachable_latency_is_given_up_with_the_smallest_one_seen() -> None:
    study = ArchitectureStudy(
        SPACE,
        "random",
        ("accuracy",),
        constraints={"latency_ms": 1.0},
        costs={"latency_ms": lambda architecture: SPACE.cost(architecture).macs / SMALLEST + 1},
        seed=0,
    )
    with pytest.raises(InfeasibleConstraintError, match=r"latency_ms <= 1 \(smallest value seen 2"):
        study.ask()


def test_peak_memory_is_that_of_the_network() -> None:
    study = ArchitectureStudy(SPACE, "random", ("accuracy", "peak_memory_mb"), seed=0)
    proposal = study.ask()
    assert proposal.architecture is not None
    expected = peak_memory_mb(build(proposal.architecture), (3, 32, 32))
    assert proposal.costs["peak_memory_mb"] == expected > 0


def test_a_cost_that_fails_once_is_passed_over_and_one_that_always_fails_ends_the_search() -> None:
    failures = iter([True, False, False])

    def latency_ms(architecture: Architecture) -> float:
        if next(failures, True):
            raise RuntimeError("device busy")
        return 1.0

    objectives = ("accuracy", "latency_ms")
    study = ArchitectureStudy(SPACE, "random", objectives, costs={"latency_ms": latency_ms}, seed=0)
    search(study, 2)
    assert study.counts.unmeasured == 1
    with pytest.raises(RuntimeError, match=r"could not be determined: RuntimeError: device busy \(failed 3 times"):
        study.ask()


def test_latency_steers() -> None:
    """Same seed, same space: a tight bound on an injected latency changes the winner, and holds."""

    def latency_ms(architecture: Architecture) -> float:
        return sum(3.0 if op == "dice_k3" else 1.0 for stage in architecture.stages for op in stage)

    def winner(constraints: dict[str, float]) -> dict[str, float]:
        costs = {"latency_ms": latency_ms}
        objectives = ("accuracy", "latency_ms")
        study = ArchitectureStudy(SPACE, "nsga2", objectives, constraints=constraints, costs=costs, seed=0)
        search(study, 60)
        if constraints:
            assert all(trial.values[1] <= constraints["latency_ms"] for trial in study.trials)
        return dict(study.best_trials[0].user_attrs["metrics"])

    free, bound = winner({}), winner({"latency_ms": 10.0})
    assert free["latency_ms"] > 10 >= bound["latency_ms"]
    assert free["accuracy"] > bound["accuracy"]


# Duplicates, failures


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_a_tiny_space_is_evaluated_exhaustively_and_nothing_twice(sampler: str) -> None:
    study = ArchitectureStudy(ALIASED, sampler, ("macs",), seed=0)
    seen = [proposal.architecture for proposal in search(study, ALIASED.size)]
    assert len(seen) == ALIASED.size
    assert set(seen) == set(ALIASED.enumerate())
    with pytest.raises(SpaceExhaustedError, match=f"all {ALIASED.size} architectures"):
        study.ask()
    assert [trial.number for trial in study.study.trials] == list(range(ALIASED.size))
    assert study.counts.evaluated == ALIASED.size
    assert study.counts.duplicate > 0


def test_what_is_running_or_failed_is_not_proposed_again() -> None:
    study = ArchitectureStudy(ALIASED, "random", ("accuracy",), seed=0)
    running = [study.ask() for _ in range(ALIASED.size // 2)]
    for proposal in running[::2]:
        study.fail(proposal, MemoryError("too big"))
    rest = [study.ask() for _ in range(ALIASED.size - len(running))]
    assert len(set(hashes(running + rest))) == ALIASED.size
    assert study.finished == len(running[::2])


def test_inactive_choices_make_no_new_architecture() -> None:
    study = ArchitectureStudy(TINY, "random", ("accuracy",), seed=0)
    shallow = {"s1_depth": 1, **{choice.label: "dice_k3" for choice in TINY.choices if choice.label != "s1_depth"}}
    study.study.enqueue_trial(shallow)
    study.study.enqueue_trial({**shallow, "s1_b2": "separable_k3"})
    first = study.ask()
    assert "s1_b2" not in first.sample
    study.tell(first, {"accuracy": 1.0})
    assert study.ask().number > 1
    assert study.study.trials[1].state == TrialState.FAIL
    assert study.study.trials[1].user_attrs["passed_over_for"] == "trial 0 has it"


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"accuracy": math.nan}, "accuracy is nan"),
        ({"accuracy": -math.inf}, "accuracy is -inf"),
        ({"loss": 1.0}, "did not report accuracy (it reported loss"),
        ({}, "it reported nothing"),
        ({"accuracy": "high"}, "metric accuracy is no number: 'high'"),
    ],
)
def test_unusable_results_fail_the_trial_and_the_search_goes_on(metrics: dict[str, float], message: str) -> None:
    study = ArchitectureStudy(SPACE, "nsga2", ("accuracy", "macs"), seed=0)
    outcome = study.tell(study.ask(), metrics)
    assert outcome.state == "failed"
    search(study, 5)
    failed = [trial for trial in study.trials if trial.state == TrialState.FAIL]
    assert len(failed) == 1
    assert message in failed[0].user_attrs["error"]
    assert study.finished == 5


def test_costs_stand_in_for_objectives_that_are_not_reported() -> None:
    study = ArchitectureStudy(SPACE, "random", ("accuracy", "macs"), seed=0)
    proposal = study.ask()
    outcome = study.tell(proposal, {"accuracy": 0.5, "loss": math.inf})
    assert outcome == Outcome({"accuracy": 0.5, **proposal.costs})
    assert study.trials[0].values == [0.5, proposal.costs["macs"]]
    assert study.trials[0].user_attrs["metrics"] == outcome.metrics
    reported = study.tell(study.ask(), {"accuracy": 0.5, "macs": 7})
    assert reported.metrics["macs"] == study.trials[1].values[1] == 7


# Sessions


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


def open_study(storage: str, **arguments: object) -> ArchitectureStudy:
    settings: dict[str, object] = {"objectives": ("accuracy",), "seed": 3, "storage": storage, **arguments}
    return ArchitectureStudy(SPACE, "random", **settings)  # type: ignore[arg-type]


def test_a_second_session_adds_only_the_rest_and_repeats_nothing(storage: str) -> None:
    measured = []

    def latency_ms(architecture: Architecture) -> float:
        measured.append(architecture.hash)
        return 1.0

    def session(total: int) -> list[str]:
        return hashes(search(open_study(storage, costs={"latency_ms": latency_ms}), total))

    first, second, third = session(4), session(9), session(9)
    assert (len(first), len(second), third) == (4, 5, [])
    assert len({*first, *second}) == len(measured) == 9
    # Had the second session drawn the numbers of the first again, it would have had to pass over four duplicates.
    assert open_study(storage, costs={"latency_ms": latency_ms}).counts.duplicate == 0


def test_what_a_killed_session_left_is_evaluated_first(storage: str) -> None:
    killed = open_study(storage)
    search(killed, 2)
    lost = [killed.ask(), killed.ask()]

    study = open_study(storage)
    assert study.recover() == [proposal.number for proposal in lost]
    assert study.recover() == []
    assert study.finished == 2
    interrupted = study.study.trials[lost[0].number]
    assert interrupted.state == TrialState.FAIL
    assert interrupted.user_attrs["interrupted"] is True
    assert hashes([study.ask(), study.ask()]) == hashes(lost)


def test_a_kill_while_choices_were_drawn_leaves_nothing_of_what_was_not_proposed_yet(storage: str) -> None:
    killed = open_study(storage)
    trial = killed.study.ask()
    label = SPACE.choices[0].label
    trial.suggest_categorical(label, SPACE.choices[0].values)

    study = open_study(storage)
    assert study.recover() == [0]
    assert study.ask().number == 1
    assert len(study.study.trials) == 2


def test_a_kill_while_an_enqueued_trial_started_loses_nothing(storage: str) -> None:
    killed = open_study(storage)
    known = next(iter(SPACE.enumerate()))
    killed.enqueue(known)
    trial = killed.study.ask()
    trial.suggest_categorical(SPACE.choices[0].label, SPACE.choices[0].values)

    study = open_study(storage)
    study.recover()
    assert study.ask().architecture == known


def test_results_on_disk_are_replayed(storage: str) -> None:
    killed = open_study(storage)
    done, failed, lost = killed.ask(), killed.ask(), killed.ask()

    study = open_study(storage)
    assert study.replay(done.number, {"accuracy": 0.7})
    assert study.replay(failed.number, {}, error="MemoryError: too big")
    assert not study.replay(done.number, {"accuracy": 0.1})
    assert study.recover() == [lost.number]
    assert study.finished == 2
    assert [trial.values for trial in study.best_trials] == [[0.7]]
    assert study.trials[1].user_attrs["error"] == "MemoryError: too big"
    with pytest.raises(ValueError, match="started no trial 99"):
        study.replay(99, {"accuracy": 0.7})


@pytest.mark.parametrize(
    ("arguments", "different"),
    [
        ({"constraints": {"macs": 2 * SMALLEST}}, "constraints"),
        ({"objectives": ("params",)}, "objectives"),
        ({"objectives": {"accuracy": "minimize"}, "image_size": 64}, "objectives, image_size"),
    ],
)
def test_a_study_of_another_search_is_refused(storage: str, arguments: dict[str, object], different: str) -> None:
    open_study(storage)
    with pytest.raises(ValueError, match=f"belongs to another search .different: {different}"):
        open_study(storage, **arguments)
    open_study(storage, study_name="another", **arguments)


def test_a_result_reaches_the_callback_before_optuna() -> None:
    seen: list[tuple[int, str, TrialState]] = []

    def on_trial_end(proposal: Proposal, outcome: Outcome) -> None:
        seen.append((proposal.number, outcome.state, study.study.trials[proposal.number].state))

    study = ArchitectureStudy(SPACE, "random", ("accuracy",), seed=0, on_trial_end=on_trial_end)
    study.tell(study.ask(), {"accuracy": 0.5})
    study.fail(study.ask(), "boom")
    assert seen == [(0, "complete", TrialState.RUNNING), (1, "failed", TrialState.RUNNING)]


def test_trials_travel_as_json() -> None:
    first = ArchitectureStudy(SPACE, "nsga2", ("accuracy", "macs"), constraints={"macs": 2 * SMALLEST}, seed=0)
    search(first, 12)
    lost = first.ask()
    second = ArchitectureStudy(SPACE, "nsga2", ("accuracy", "macs"), constraints={"macs": 2 * SMALLEST}, seed=0)
    second.load_json(first.to_json())
    assert second.finished == 12
    assert [t.values for t in second.best_trials] == [t.values for t in first.best_trials]
    assert [t.constraints for t in second.trials] == [t.constraints for t in first.trials]
    assert second.ask().hash == lost.hash
    search(second, 15)
    assert second.finished == 15


# Spaces that are not ours


def test_foreign_spaces_are_lists_of_distributions() -> None:
    space = {"op": CategoricalDistribution(["a", "b"]), "depth": CategoricalDistribution([1, 2, 3])}
    study = ArchitectureStudy(space, "nsga2", {"score": "maximize", "size": "minimize"}, seed=0)
    for _ in range(6):
        proposal = study.ask()
        assert proposal.architecture is None
        study.tell(proposal, {"score": proposal.sample["depth"] + (proposal.sample["op"] == "b"), "size": 1})
    with pytest.raises(SpaceExhaustedError, match="all 6 "):
        study.ask()
    assert study.best_trials[0].params == {"op": "b", "depth": 3}
    continuous = ArchitectureStudy({"rate": FloatDistribution(0, 1)}, "random", ("accuracy",), seed=0)
    assert continuous.ask().hash != continuous.ask().hash


@pytest.mark.parametrize("arguments", [{"constraints": {"macs": 1e6}}, {"costs": {"macs": lambda a: 1.0}}])
def test_foreign_spaces_have_no_costs(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="need the architectures of a SpaceSpec"):
        ArchitectureStudy({"op": CategoricalDistribution([1, 2])}, "random", ("accuracy",), **arguments)  # type: ignore[arg-type]
