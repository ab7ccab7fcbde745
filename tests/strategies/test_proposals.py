"""What the laws of proposals are: nothing twice, nothing infeasible, whatever the space, the bounds and the sampler."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from random import Random

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from dicenas.architecture import Architecture
from dicenas.nets import net_architecture
from dicenas.space import SpaceSpec
from dicenas.strategies import (
    SAMPLERS,
    ArchitectureStudy,
    InfeasibleConstraintError,
    SpaceExhaustedError,
    named_architecture,
)
from dicenas.strategies.claims import StudyClaims
from dicenas.strategies.closed_forms import ClosedForms
from dicenas.strategies.feasible import CostBook
from dicenas.strategies.finding import Finder
from dicenas.strategies.index import TrialIndex

SPACE = SpaceSpec(
    "shufflenetv2",
    ops=("separable", "dice_k3", "skip"),
    widths=(0.5, 0.75, 1.0),
    depths=((1, 2), (1, 2, 3), (1, 2)),
    stems=("small",),
    resolutions=(32,),
    num_classes=10,
)
SMALLEST = SPACE.minimum("macs")
# What a quick sampler needs no patience for; the Gaussian process takes half a second a trial.
QUICK = [name for name in SAMPLERS if name != "gp"]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(verbosity)


@st.composite
def spaces(draw: st.DrawFn) -> SpaceSpec:
    """Spaces of one architecture up to millions, of two backbones, with and without skips."""
    names = ["separable_k3", "dice_k3", "skip", "separable_k5"]
    ops = tuple(draw(st.permutations(names))[: draw(st.integers(1, 4))])
    backbone = draw(st.sampled_from(["shufflenetv2", "mobilenetv2"]))
    stages = 3 if backbone == "shufflenetv2" else 7
    depths = st.lists(st.integers(1, 2), min_size=1, max_size=2, unique=True)
    return SpaceSpec(
        backbone,
        ops=("separable_k3", *(op for op in ops if op != "separable_k3")),
        widths=draw(st.sampled_from([(0.5,), (0.5, 1.0)])),
        depths=tuple(tuple(draw(depths)) for _ in range(stages)),
        stems=("small",),
        resolutions=draw(st.sampled_from([(32,), (24, 32)])),
        num_classes=10,
    )


def score(architecture: Architecture) -> float:
    return sum(len(op) for stage in architecture.stages for op in stage) / 100


# Nothing twice, nothing infeasible


@pytest.mark.parametrize("sampler", SAMPLERS)
@settings(max_examples=6)
@given(space=spaces(), slack=st.sampled_from([1.0, 1.05, 1.5, 10.0]), seed=st.integers(0, 9), slow=st.booleans())
def test_no_sampler_trains_a_duplicate_or_an_infeasible_architecture(
    sampler: str, space: SpaceSpec, slack: float, seed: int, slow: bool
) -> None:
    bound = slack * space.minimum("macs")
    constraints, costs = {"macs": bound}, {}
    if slow:  # a cost of which no closed form is known
        constraints["blocks"] = 2.0 * sum(min(depths) + 1 for depths in space.depths)
        costs["blocks"] = lambda architecture: float(sum(map(len, architecture.stages)))
    study = ArchitectureStudy(space, sampler, ("accuracy", "macs"), constraints=constraints, costs=costs, seed=seed)
    trials = 11 if sampler == "gp" else 25
    evaluated: list[Architecture] = []
    try:
        while study.remaining(trials):
            proposal = study.ask()
            assert proposal.architecture is not None
            assert proposal.architecture in space
            evaluated.append(proposal.architecture)
            study.tell(proposal, {"accuracy": score(proposal.architecture)})
    except SpaceExhaustedError:
        assert study.counts.evaluated < trials
    assert len(set(evaluated)) == len(evaluated) == study.counts.evaluated >= 1
    for architecture in evaluated:
        assert space.cost(architecture).macs <= bound
        assert not slow or sum(map(len, architecture.stages)) <= constraints["blocks"]


@pytest.mark.parametrize("sampler", QUICK)
def test_all_that_is_feasible_in_a_small_space_is_found_and_then_the_search_ends(sampler: str) -> None:
    space = SpaceSpec("shufflenetv2", ("separable_k3", "dice_k3"), (0.5,), ((1, 2), (1,), (1,)), num_classes=10)
    costs = {architecture: space.cost(architecture).macs for architecture in space.enumerate()}
    bound = sorted(costs.values())[len(costs) // 4]
    study = ArchitectureStudy(space, sampler, ("accuracy",), constraints={"macs": bound}, seed=0)
    found = set()
    feasible = {architecture for architecture, macs in costs.items() if macs <= bound}
    for _ in feasible:
        proposal = study.ask()
        found.add(proposal.architecture)
        study.tell(proposal, {"accuracy": 1.0})
    assert found == feasible
    with pytest.raises(SpaceExhaustedError, match="no further architecture was found"):
        study.ask()
    # What was asked for in vain is no trial of the search, and nobody waits for it.
    assert study.finished == len(found)
    assert not study.study.get_trials(states=(TrialState.RUNNING,))


def test_bounds_that_cannot_be_met_together_are_given_up_with_the_smallest_values() -> None:
    cheapest = min((SPACE.random(Random(seed)) for seed in range(300)), key=lambda a: SPACE.cost(a).macs)
    study = ArchitectureStudy(
        SPACE,
        "nsga2",
        ("accuracy",),
        constraints={"macs": SPACE.cost(cheapest).macs, "energy_mj": 1.0},
        costs={"energy_mj": lambda architecture: 2.0 + len(architecture.stages[0])},
        seed=0,
    )
    with pytest.raises(InfeasibleConstraintError, match=r"macs <= .*smallest value seen .*energy_mj <= 1 \(smallest"):
        study.ask()
    assert study.counts.evaluated == 0
    assert study.counts.infeasible > 100
    assert not study.study.get_trials(states=(TrialState.RUNNING,))


def test_random_is_uniform_over_what_is_feasible() -> None:
    """Drawing many at once, and passing over what breaks a bound, favours nothing."""
    space = SpaceSpec("shufflenetv2", ("separable_k3", "dice_k3"), (0.5, 1.0), ((1,), (1,), (1,)), num_classes=10)
    costs = {architecture: space.cost(architecture).macs for architecture in space.enumerate()}
    bound = sorted(costs.values())[len(costs) // 2]
    feasible = [architecture for architecture, macs in costs.items() if macs <= bound]
    passed_over: list[int] = []
    functions = {"macs": lambda architecture: float(costs[architecture])}
    forms = ClosedForms(space, {"macs": bound})
    finder = Finder(space, CostBook(functions, {"macs": bound}), forms, Random(0), passed_over.append)
    drawn = [next(finder.random()) for _ in range(60 * len(feasible))]
    counts = [drawn.count(architecture) for architecture in feasible]
    assert sum(counts) == len(drawn)
    assert min(counts) > 60 - 5 * 60**0.5
    assert max(counts) < 60 + 5 * 60**0.5
    share = len(drawn) / (len(drawn) + sum(passed_over))
    assert share == pytest.approx(len(feasible) / len(costs), abs=0.05)


# Known networks first

FULL = {
    "dicenet_020": SpaceSpec(
        "shufflenetv2", ("separable", "dice"), (0.2,), ((1, 3), (3, 7), (3,)), ("small",), (32,), 10
    ),
    "shufflenetv2_edgenets_100": SpaceSpec("shufflenetv2_edgenets", num_classes=7, resolutions=(64,)),
    "mobilenetv2_100": SpaceSpec("mobilenetv2", stems=("small",), resolutions=(32, 40), num_classes=10),
}


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("sampler", ["evolution", "nsga2", "nsga3", "tpe"])
def test_known_networks_are_points_of_their_spaces_and_come_first(name: str, sampler: str) -> None:
    space = FULL[name]
    known = named_architecture(space, name)
    published = net_architecture(name)
    assert (known.width, known.stages) == (published.width, published.stages)
    assert (known.num_classes, known.image_size) == (space.num_classes, (space.resolutions[0],) * 2)
    study = ArchitectureStudy(space, sampler, ("accuracy", "macs"), seed=0)
    assert study.enqueue(known)
    assert not study.enqueue(known)
    proposal = study.ask()
    assert (proposal.number, proposal.architecture) == (0, known)
    study.tell(proposal, {"accuracy": 1.0})
    assert not study.enqueue(known)
    assert study.ask().architecture != known


def test_a_known_network_breeds() -> None:
    """Optuna's genetic samplers take no enqueued trial for one of their population; here they do."""
    study = ArchitectureStudy(SPACE, "nsga2", ("accuracy",), seed=0)
    rng = Random(1)
    for _ in range(9):
        study.enqueue(SPACE.random(rng))
    best = SPACE.random(rng).replace(width=1.0)
    study.enqueue(best)
    for _ in range(10):
        proposal = study.ask()
        study.tell(proposal, {"accuracy": float(proposal.architecture == best)})
    generations = {trial.system_attrs["NSGAIISampler:generation"] for trial in study.study.trials}
    assert generations == {0}
    study.ask()
    assert study.study.trials[-1].system_attrs["NSGAIISampler:generation"] == 1


def test_architecture_files_are_known_networks_too(tmp_path: Path) -> None:
    architecture = SPACE.random(Random(0))
    path = tmp_path / "mine.json"
    architecture.replace(num_classes=1000, image_size=(224, 224), stem="imagenet").save(path)
    assert named_architecture(SPACE, str(path)) == architecture


@pytest.mark.parametrize(
    ("name", "space", "message"),
    [
        ("dicenet_20", SPACE, "unknown network 'dicenet_20'; did you mean"),
        ("mobilenetv2_100", SPACE, "its backbone is mobilenetv2"),
        ("dicenet_020", SPACE, "its width is 0.2, and the space has 0.5, 0.75, 1"),
        ("dicenet_050", SPACE, "its stage 1 has 4 blocks, and the space has at most 3"),
        (
            "dicenet_050",
            SpaceSpec("shufflenetv2", ("separable_k3",), (0.5,)),
            "block 0 of its stage 1 is dice_k3, and the space has separable_k3",
        ),
        (
            "dicenet_050",
            SpaceSpec("shufflenetv2", ("dice",), (0.5,), ((3,), (6, 8), (3,))),
            r"its stages have 4, 8, 4 blocks, and the depths are \[3\], \[6, 8\], \[3\]",
        ),
        ("dicenet_020", SpaceSpec("shufflenetv2", ("dice",), (0.5,)), r"points of it: dicenet_050"),
    ],
)
def test_what_is_no_point_of_the_space_is_refused_with_the_reason(name: str, space: SpaceSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named_architecture(space, name)


def test_what_cannot_be_evaluated_is_not_enqueued() -> None:
    study = ArchitectureStudy(SPACE, "random", ("accuracy",), constraints={"macs": SMALLEST}, seed=0)
    large = next(a for a in (SPACE.random(Random(seed)) for seed in range(99)) if SPACE.cost(a).macs > SMALLEST)
    with pytest.raises(ValueError, match=rf"cannot be enqueued: macs is [\d,]+, above the bound {SMALLEST:,}"):
        study.enqueue(large)
    with pytest.raises(ValueError, match="is not a point of this shufflenetv2 space"):
        study.enqueue(large.replace(num_classes=11))
    foreign = ArchitectureStudy({"op": CategoricalDistribution([1, 2])}, "random", ("accuracy",))
    with pytest.raises(ValueError, match="only a study over a SpaceSpec takes architectures"):
        foreign.enqueue(large)
    assert not study.study.trials


# Interruptions and other processes


def test_an_interrupted_ask_leaves_nothing_that_runs_and_keeps_what_is_enqueued() -> None:
    interrupt = False

    def latency_ms(architecture: Architecture) -> float:
        if interrupt:
            raise KeyboardInterrupt
        return 1.0

    study = ArchitectureStudy(SPACE, "nsga2", ("accuracy", "latency_ms"), costs={"latency_ms": latency_ms}, seed=0)
    study.tell(study.ask(), {"accuracy": 0.5})
    known = SPACE.random(Random(5))
    study.enqueue(known)
    study._searched._book.known.clear()  # type: ignore[attr-defined]
    for _ in range(2):
        interrupt = True
        with pytest.raises(KeyboardInterrupt):
            study.ask()
        assert not study.study.get_trials(states=(TrialState.RUNNING,))
    interrupt = False
    assert study.ask().architecture == known
    assert study.finished == 1


class Refusing:
    """Claims of which the first few are another process's."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.claimed: list[tuple[str, int]] = []
        self.released: list[str] = []

    def claim(self, architecture: str, trial: int) -> int | None:
        self.refusals -= 1
        if self.refusals >= 0:
            return 77
        self.claimed.append((architecture, trial))
        return None

    def release(self, architecture: str) -> None:
        self.released.append(architecture)


def test_what_another_process_claimed_is_drawn_again() -> None:
    claims = Refusing(3)
    study = ArchitectureStudy(SPACE, "random", ("accuracy",), seed=0, claims=claims)
    proposal = study.ask()
    assert claims.claimed == [(proposal.hash, 0)]
    study.tell(proposal, {"accuracy": 0.5})
    assert (study.counts.duplicate, study.counts.evaluated) == (3, 1)


def test_of_two_trials_that_say_the_same_one_gives_way_or_both() -> None:
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage)
    first, second = study.ask(), study.ask()
    claims = [StudyClaims(TrialIndex(study, storage)) for _ in range(2)]
    assert claims[0].claim("x", 0) is None
    assert claims[1].claim("x", 1) == 0
    assert claims[1].claim("y", 1) is None
    # Both said so before either looked.
    first.set_user_attr("architecture_hash", "z")
    second.set_user_attr("architecture_hash", "z")
    assert (claims[0].claim("z", 0), claims[1].claim("z", 1)) == (1, 0)
    # What failed without an evaluation, or was interrupted, is free again; what failed in its evaluation is not.
    study.tell(first, state=TrialState.FAIL)
    assert claims[1].claim("z", 1) is None
    second.set_user_attr("error", "MemoryError")
    study.tell(second, state=TrialState.FAIL)
    study.ask()
    assert claims[0].claim("z", 2) == 1


def _work(storage: str, worker: int, total: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = ArchitectureStudy(
        SPACE, "evolution", ("accuracy", "macs"), storage=storage, study_name="s", seed=0, worker=worker
    )
    while study.remaining(total):
        proposal = study.ask()
        assert proposal.architecture is not None
        study.tell(proposal, {"accuracy": score(proposal.architecture)})


def test_processes_that_share_a_storage_train_nothing_twice(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    ArchitectureStudy(SPACE, "evolution", ("accuracy", "macs"), storage=storage, study_name="s")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(storage, worker, 16)) for worker in range(2)]
    for process in workers:
        process.start()
    for process in workers:
        process.join()
    assert [process.exitcode for process in workers] == [0, 0]
    study = ArchitectureStudy(SPACE, "evolution", ("accuracy", "macs"), storage=storage, study_name="s")
    hashes = [trial.user_attrs["architecture_hash"] for trial in study.trials]
    assert len(set(hashes)) == len(hashes) >= 16
