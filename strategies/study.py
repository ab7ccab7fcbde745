"""A study of architectures: Optuna proposes, cheap costs decide, only what is new and feasible is evaluated."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from dicenas.architecture import Architecture
from dicenas.pareto import DIRECTIONS, Direction, pareto_front
from dicenas.space import SpaceSpec
from dicenas.spelling import did_you_mean
from dicenas.strategies.costs import (
    CostFunction,
    InfeasibleConstraintError,
    check_constraints,
    check_feasible,
    default_costs,
    ordered,
)
from dicenas.strategies.samplers import check_sampler, make_sampler

__all__ = ["ArchitectureStudy", "Outcome", "Proposal", "SpaceExhaustedError", "parse_objectives"]

_logger = logging.getLogger(__name__)

# So many proposals in a row may be infeasible or known already before the study looks for a new one itself. The
# Gaussian process learns nothing from them and takes half a second to propose much the same again.
_PATIENCE = 10
_PATIENCE_WITH_GP = 2
# A space that is not ours cannot be walked: there only the sampler proposes.
_PATIENCE_OF_FOREIGN_SPACES = 200
_WALK_STEPS = 600
_WALK_RESTARTS_EVERY = 300
_COST_FAILURES = 3


class SpaceExhaustedError(RuntimeError):
    """No further architecture was found that is new and meets the constraints."""


class _CostError(Exception):
    """A cost function failed for an architecture."""


@dataclass(frozen=True)
class Proposal:
    """What a study asks to evaluate.

    Attributes:
        number: Number of the trial.
        sample: Value of each active choice.
        hash: Digest that two proposals share exactly when they mean the same network.
        architecture: The architecture; ``None`` in a space that is not a :class:`~dicenas.space.SpaceSpec`.
        costs: What is known of it already.
    """

    number: int
    sample: Mapping[str, Any]
    hash: str
    architecture: Architecture | None = None
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        metrics: Costs and what the evaluation reported, as far as it is finite.
        error: Why the trial failed, ``None`` where it did not.
    """

    metrics: Mapping[str, float]
    error: str | None = None

    @property
    def state(self) -> Literal["complete", "failed"]:
        """``"complete"`` or ``"failed"``."""
        return "complete" if self.error is None else "failed"


def parse_objectives(
    objectives: Sequence[str] | Mapping[str, Direction], directions: Sequence[Direction] | None = None
) -> dict[str, Direction]:
    """Return the direction of each objective.

    Args:
        objectives: Names, or directions by name.
        directions: Directions of the names, in their order; those of well-known metrics need not be given.

    Raises:
        ValueError: There is no objective, one is given twice, or a direction is unknown.
    """
    if isinstance(objectives, str):
        raise ValueError(f"objectives {objectives!r} should be a sequence of names: ({objectives!r},)")
    names = list(objectives)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"objectives {names} should be one name or more, each given once")
    if isinstance(objectives, Mapping):
        if directions is not None:
            raise ValueError("objectives is a mapping that gives directions already; leave directions out")
        chosen = dict(objectives)
    elif directions is not None:
        if len(directions) != len(names):
            raise ValueError(f"{len(names)} objectives and {len(directions)} directions")
        chosen = dict(zip(names, directions, strict=True))
    else:
        for name in names:
            if name not in DIRECTIONS:
                raise ValueError(
                    f"unknown objective {name!r}{did_you_mean(name, DIRECTIONS)} (known: {', '.join(DIRECTIONS)}); "
                    "for a metric of your own say in directions whether it is maximized or minimized"
                )
        chosen = {name: DIRECTIONS[name] for name in names}
    pareto_front([], chosen)  # checks the directions
    return chosen


class ArchitectureStudy:
    """One Optuna study over a space of architectures.

    :meth:`ask` proposes an architecture that was not evaluated before and meets every constraint; :meth:`tell` and
    :meth:`fail` end its trial. Costs are computed when an architecture is proposed, cheapest first and once for each.
    An infeasible proposal is told to Optuna as pruned, one whose result is known already with that result; neither
    counts as a trial.

    Every label of the space is a parameter of every Optuna trial, active or not: the genetic and the Gaussian
    process sampler work only on parameters that all trials share and draw any other at random.

    Args:
        space: A :class:`~dicenas.space.SpaceSpec`, or Optuna's distributions by label for any other space; there
            costs and constraints cannot be used.
        sampler: ``"nsga2"``, ``"tpe"``, ``"gp"`` or ``"random"``.
        objectives: Names of the objectives, or directions by name.
        directions: Directions of the objectives; not needed for well-known metrics.
        constraints: Upper bounds by name of cost.
        costs: Functions of an architecture by name of cost, beside and before those of
            :func:`~dicenas.strategies.default_costs`. ``peak_memory_mb`` is computed where an objective or a
            constraint names it.
        image_size: Image size at which the default costs are counted; each architecture's own by default.
        storage: Optuna storage or its URL; in memory by default.
        study_name: Name of the study in the storage, ``"dicenas"`` by default.
        seed: Seed; sessions that take a study up again draw other numbers than the first.
        on_trial_end: Called with each proposal and its outcome before Optuna is told, so that results can be on disk
            before they count.

    Attributes:
        study: The Optuna study.
        objectives: Direction of each objective.
        constraints: Upper bounds by name of cost.

    Raises:
        ValueError: An argument is unknown or contradicts another, or the study in the storage is another search's.
        InfeasibleConstraintError: The space cannot meet a bound on ``macs`` or ``params``.
    """

    def __init__(
        self,
        space: SpaceSpec | Mapping[str, BaseDistribution],
        sampler: str = "nsga2",
        objectives: Sequence[str] | Mapping[str, Direction] = ("accuracy", "latency_ms"),
        directions: Sequence[Direction] | None = None,
        constraints: Mapping[str, float] | None = None,
        *,
        costs: Mapping[str, CostFunction] | None = None,
        image_size: int | None = None,
        storage: str | BaseStorage | None = None,
        study_name: str | None = None,
        seed: int | None = None,
        on_trial_end: Callable[[Proposal, Outcome], None] | None = None,
    ) -> None:
        check_sampler(sampler)
        self.space = space
        self.objectives = parse_objectives(objectives, directions)
        self._on_trial_end = on_trial_end
        if isinstance(space, SpaceSpec):
            known = {**default_costs(space, image_size), **(costs or {})}
            self.constraints = check_constraints(constraints or {}, known)
            wanted = {"macs", "params", *self.objectives, *self.constraints, *(costs or {})}
            self._costs = {name: known[name] for name in known if name in wanted}
            if "latency_ms" in self.objectives and "latency_ms" not in self._costs:
                raise ValueError(
                    "objective 'latency_ms' has no source: give costs={'latency_ms': function of an architecture}"
                )
            closed_forms = {name: bound for name, bound in self.constraints.items() if name not in (costs or {})}
            check_feasible(space, closed_forms, image_size)
            self._distributions: dict[str, BaseDistribution] = {
                choice.label: CategoricalDistribution(choice.values) for choice in space.choices
            }
            self._size: float = space.size
            fingerprint = space.fingerprint
        else:
            if constraints or costs:
                raise ValueError(
                    "costs and constraints need the architectures of a SpaceSpec; "
                    "in any other space the evaluation reports all metrics itself"
                )
            self.constraints, self._costs = {}, {}
            self._distributions = dict(space)
            self._size = math.prod(
                len(d.choices) if isinstance(d, CategoricalDistribution) else math.inf for d in space.values()
            )
            fingerprint = _digest({label: optuna.distributions.distribution_to_json(d) for label, d in space.items()})

        self._storage = optuna.storages.get_storage(storage)
        self.study = optuna.create_study(
            storage=self._storage,
            study_name=study_name or (None if storage is None else "dicenas"),
            directions=list(self.objectives.values()),
            load_if_exists=True,
        )
        self._check_identity(
            {
                "space": fingerprint,
                "objectives": self.objectives,
                "constraints": self.constraints,
                "image_size": image_size,
            }
        )
        self._sampler, self._seed = sampler, seed
        self._cost_cache: dict[str, dict[str, float]] = {}
        self._cost_failures = 0
        self._start_session()

    def _check_identity(self, identity: dict[str, Any]) -> None:
        identity = json.loads(json.dumps(identity))
        stored = self.study.user_attrs.get("dicenas")
        if stored is None and not self.study.get_trials(deepcopy=False):
            self.study.set_user_attr("dicenas", identity)
        elif stored != identity:
            different = [key for key in identity if stored is None or stored.get(key) != identity[key]]
            raise ValueError(
                f"study {self.study.study_name!r} in this storage belongs to another search "
                f"(different: {', '.join(different)}); take another storage or study name"
            )

    def _start_session(self) -> None:
        """Seed the sampler for the trials that are there, and read their costs."""
        trials = self.study.get_trials(deepcopy=False)
        self.study.sampler = make_sampler(self._sampler, self._seed, len(trials))
        self._rng = Random() if self._seed is None else Random(f"walk {self._seed} {len(trials)}")
        for trial in trials:
            if "costs" in trial.user_attrs:
                self._cost_cache[trial.user_attrs["architecture_hash"]] = dict(trial.user_attrs["costs"])

    # What the study knows

    @property
    def trials(self) -> list[FrozenTrial]:
        """The trials that count, complete and failed: one for each architecture that was evaluated."""
        return [trial for trial in self._trials(TrialState.COMPLETE, TrialState.FAIL) if _counts(trial)]

    @property
    def finished(self) -> int:
        """Number of trials that count."""
        return len(self.trials)

    def remaining(self, total: int) -> int:
        """Return how many trials are missing from a total."""
        return max(0, total - self.finished)

    @property
    def best_trials(self) -> list[FrozenTrial]:
        """The Pareto front of the complete trials, best first objective first."""
        complete = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        points = [dict(zip(self.objectives, trial.values, strict=True)) for trial in complete]
        return [complete[index] for index in pareto_front(points, self.objectives)]

    def proposal(self, trial: FrozenTrial) -> Proposal:
        """Return what a trial of this study proposed."""
        return self._proposal(trial.number, trial.params, trial.user_attrs.get("costs", {}))

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    # Proposing

    def ask(self) -> Proposal:
        """Return an architecture to evaluate: new, and within the constraints.

        Raises:
            InfeasibleConstraintError: Nothing in the space was found to meet the constraints.
            SpaceExhaustedError: Nothing further was found.
        """
        fruitless = 0
        while True:
            if len(self._taken()) >= self._size:
                raise SpaceExhaustedError(f"all {self._size:,} architectures of the space are evaluated")
            proposal = self._examine(self.study.ask(self._distributions))
            if proposal is not None:
                return proposal
            fruitless += 1
            if isinstance(self.space, SpaceSpec):
                if fruitless % (_PATIENCE_WITH_GP if self._sampler == "gp" else _PATIENCE) == 0:
                    self.study.enqueue_trial(self.space.sample(self._walk(self.space)))
            elif fruitless == _PATIENCE_OF_FOREIGN_SPACES:
                raise SpaceExhaustedError(f"the last {fruitless} proposals were all evaluated before")

    def _taken(self) -> dict[str, FrozenTrial]:
        """Trials by hash of what they evaluated or are evaluating."""
        running = [trial for trial in self._trials(TrialState.RUNNING) if "architecture_hash" in trial.user_attrs]
        return {trial.user_attrs["architecture_hash"]: trial for trial in [*running, *self.trials]}

    def _proposal(self, number: int, params: Mapping[str, Any], costs: Mapping[str, float]) -> Proposal:
        if not isinstance(self.space, SpaceSpec):
            return Proposal(number, dict(params), _digest(params))
        sample: dict[str, Any] = {}
        for choice in self.space.choices:
            if choice.active(sample):
                sample[choice.label] = params[choice.label]
        architecture = self.space.architecture(sample)
        return Proposal(number, sample, architecture.hash, architecture, dict(costs))

    def _examine(self, trial: Trial) -> Proposal | None:
        """Return the proposal of a trial, or tell the trial at once where there is nothing to evaluate."""
        proposal = self._proposal(trial.number, trial.params, {})
        known = self._taken().get(proposal.hash)
        trial.set_user_attr("architecture_hash", proposal.hash)
        if proposal.architecture is not None:
            trial.set_user_attr("architecture", proposal.architecture.to_dict())
        if known is not None:
            self._tell_duplicate(trial, known)
            return None
        if proposal.architecture is None:
            return proposal
        try:
            costs, violated = self._costs_of(proposal.architecture)
        except _CostError as error:
            trial.set_user_attr("cost_error", str(error))
            self.study.tell(trial, state=TrialState.FAIL)
            return None
        for name, bound in self.constraints.items():
            if name in costs:
                trial.set_constraint(name, costs[name] - bound)
        trial.set_user_attr("costs", costs)
        if violated is not None:
            trial.set_user_attr("infeasible", f"{violated} {costs[violated]:g} > {self.constraints[violated]:g}")
            self.study.tell(trial, state=TrialState.PRUNED)
            return None
        return Proposal(trial.number, proposal.sample, proposal.hash, proposal.architecture, costs)

    def _tell_duplicate(self, trial: Trial, known: FrozenTrial) -> None:
        trial.set_user_attr("duplicate_of", known.number)
        for name, value in known.constraints.items():
            trial.set_constraint(name, value)
        if known.state == TrialState.COMPLETE:
            trial.set_user_attr("metrics", known.user_attrs["metrics"])
            self.study.tell(trial, known.values)
        else:
            self.study.tell(trial, state=TrialState.FAIL)

    def _costs_of(self, architecture: Architecture) -> tuple[dict[str, float], str | None]:
        """Return costs, and the first constraint that they violate; what comes after that is not computed."""
        costs = self._cost_cache.setdefault(architecture.hash, {})
        free = [name for name in self._costs if name not in self.constraints]
        for name in [*ordered(self.constraints), *ordered(free)]:
            if name not in costs:
                costs[name] = self._compute(name, architecture)
            if costs[name] > self.constraints.get(name, math.inf):
                return dict(costs), name
        return dict(costs), None

    def _compute(self, name: str, architecture: Architecture) -> float:
        try:
            value = float(self._costs[name](architecture))
            if not math.isfinite(value):
                raise ValueError(f"the value is {value}")
        except Exception as error:  # measuring runs foreign code; one failure must not end a search
            self._cost_failures += 1
            message = f"{name} of architecture {architecture.hash} could not be determined: {_describe(error)}"
            if self._cost_failures >= _COST_FAILURES:
                raise RuntimeError(f"{message} (failed {self._cost_failures} times in a row)") from error
            _logger.warning("%s; it is passed over", message)
            raise _CostError(message) from error
        self._cost_failures = 0
        return value

    def _walk(self, space: SpaceSpec) -> Architecture:
        """Find a new feasible architecture by mutations that do not move away from the constraints.

        Samplers learn little from infeasible proposals, and may repeat known ones for ever where they converged.
        """
        taken = self._taken()
        order = ordered(self.constraints)
        current, distance = None, (math.inf, 0.0)
        for step in range(_WALK_STEPS):
            if step % _WALK_RESTARTS_EVERY == 0 or current is None or space.size == 1:
                current, distance = None, (math.inf, 0.0)
                candidate = space.random(self._rng)
            else:
                candidate = space.mutate(current, self._rng)
            try:
                costs, violated = self._costs_of(candidate)
            except _CostError:
                continue
            if violated is None:
                if candidate.hash not in taken:
                    return candidate
                there = (0.0, 0.0)
            else:
                there = (float(len(order) - order.index(violated)), costs[violated] - self.constraints[violated])
            if there <= distance:
                current, distance = candidate, there
        if taken or not self.constraints:
            raise SpaceExhaustedError(
                f"no further architecture that is new{' and meets the constraints' if self.constraints else ''} was "
                f"found in a walk of {_WALK_STEPS} steps"
            )
        raise InfeasibleConstraintError(
            "no architecture was found that meets all constraints: " + ", ".join(map(self._bound_and_smallest, order))
        )

    def _bound_and_smallest(self, name: str) -> str:
        seen = [costs[name] for costs in self._cost_cache.values() if name in costs]
        smallest = f"smallest value seen {min(seen):g}" if seen else "not reached, a constraint before it failed"
        return f"{name} <= {self.constraints[name]:g} ({smallest})"

    # Results

    def tell(self, proposal: Proposal, metrics: Mapping[str, float]) -> Outcome:
        """End a trial with what its evaluation reported.

        Costs stand in for objectives that were not reported. A trial that lacks an objective, or in which one is NaN
        or infinite, failed; other metrics that are not finite are left out.
        """
        outcome = self._judge(proposal, metrics)
        self._finish(proposal, outcome)
        return outcome

    def fail(self, proposal: Proposal, error: BaseException | str) -> Outcome:
        """End a trial whose evaluation failed; it counts, and its architecture is not proposed again."""
        outcome = Outcome(proposal.costs, error if isinstance(error, str) else _describe(error))
        self._finish(proposal, outcome)
        return outcome

    def _judge(self, proposal: Proposal, metrics: Mapping[str, Any]) -> Outcome:
        values: dict[str, float] = dict(proposal.costs)
        errors = []
        for name, value in metrics.items():
            try:
                values[name] = float(value)
            except (TypeError, ValueError):
                values[name] = math.nan
                errors.append(f"metric {name} is no number: {value!r:.80}")
        if missing := [name for name in self.objectives if name not in values]:
            reported = ", ".join(metrics) or "nothing"
            errors.append(f"the evaluation did not report {', '.join(missing)} (it reported {reported})")
        errors += [f"{name} is {values[name]}" for name in self.objectives if not math.isfinite(values.get(name, 0))]
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        return Outcome(finite, "; ".join(errors) or None)

    def _finish(self, proposal: Proposal, outcome: Outcome) -> None:
        if self._on_trial_end is not None:
            self._on_trial_end(proposal, outcome)
        self._tell(proposal, outcome)

    def _tell(self, proposal: Proposal, outcome: Outcome) -> None:
        self._set_user_attr(proposal.number, "metrics", dict(outcome.metrics))
        if outcome.error is None:
            self.study.tell(proposal.number, [outcome.metrics[name] for name in self.objectives])
        else:
            _logger.warning("Trial %d failed: %s", proposal.number, outcome.error)
            self._set_user_attr(proposal.number, "error", outcome.error)
            self.study.tell(proposal.number, state=TrialState.FAIL)

    def _set_user_attr(self, number: int, name: str, value: Any) -> None:
        study_id = self._storage.get_study_id_from_name(self.study.study_name)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        self._storage.set_trial_user_attr(trial_id, name, value)

    # Sessions

    def replay(self, number: int, metrics: Mapping[str, float], error: str | None = None) -> bool:
        """Tell a result that an earlier session kept, where it ended before Optuna was told.

        Call it before :meth:`recover`.

        Args:
            number: Number of the trial.
            metrics: Its metrics.
            error: Why it failed, where it did.

        Returns:
            Whether the result was news; nothing changes for a trial that has ended.

        Raises:
            ValueError: The study never started such a trial.
        """
        trials = self.study.get_trials(deepcopy=False)
        if not 0 <= number < len(trials) or trials[number].state == TrialState.WAITING:
            raise ValueError(f"study {self.study.study_name!r} has started no trial {number}: the result is another's")
        if trials[number].state.is_finished():
            return False
        proposal = self.proposal(trials[number])
        self._tell(proposal, self._judge(proposal, metrics) if error is None else Outcome(dict(metrics), error))
        return True

    def recover(self) -> list[int]:
        """End the trials that are running as interrupted, and propose their architectures again first.

        For the start of a session, after one that was killed, and for the end of one that is interrupted. Nobody else
        may be working on the study.

        Returns:
            Numbers of these trials.
        """
        running = self._trials(TrialState.RUNNING)
        for trial in running:
            # In this order, a kill in between proposes an architecture twice rather than never.
            self.study.enqueue_trial({**trial.system_attrs.get("fixed_params", {}), **trial.params})
            self._set_user_attr(trial.number, "interrupted", True)
            self.study.tell(trial.number, state=TrialState.FAIL)
        return [trial.number for trial in running]

    def to_json(self) -> str:
        """Return all trials as JSON text, for :meth:`load_json`."""
        return json.dumps([_to_dict(trial) for trial in self.study.get_trials(deepcopy=False)])

    def load_json(self, text: str) -> None:
        """Take up the trials of another session into a study that has none; one with a storage has them already."""
        if self.study.get_trials(deepcopy=False):
            return
        for data in json.loads(text):
            self.study.add_trial(_from_dict(data))
        self.recover()
        self._start_session()


def _counts(trial: FrozenTrial) -> bool:
    attrs = trial.user_attrs
    return "duplicate_of" not in attrs and (trial.state == TrialState.COMPLETE or "error" in attrs)


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(data), sort_keys=True).encode()).hexdigest()[:16]


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _to_dict(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "state": trial.state.name,
        "values": trial.values,
        "params": trial.params,
        "distributions": {
            label: optuna.distributions.distribution_to_json(distribution)
            for label, distribution in trial.distributions.items()
        },
        "user_attrs": trial.user_attrs,
        "system_attrs": dict(trial.system_attrs),
    }


def _from_dict(data: Mapping[str, Any]) -> FrozenTrial:
    return optuna.trial.create_trial(
        state=TrialState[data["state"]],
        values=data["values"],
        params=data["params"],
        distributions={
            label: optuna.distributions.json_to_distribution(text) for label, text in data["distributions"].items()
        },
        user_attrs=data["user_attrs"],
        system_attrs=data["system_attrs"],
    )
