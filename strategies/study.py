"""A study of architectures: Optuna proposes, cheap costs decide, only what is new and feasible is evaluated."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from random import Random
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from dicenas.architecture import Architecture
from dicenas.pareto import Direction, pareto_front
from dicenas.space import SpaceSpec
from dicenas.strategies.claims import Claims
from dicenas.strategies.costs import (
    CostFunction,
    InfeasibleConstraintError,
    check_constraints,
    check_feasible,
    default_costs,
)
from dicenas.strategies.feasible import CostBook, CostError
from dicenas.strategies.objectives import parse_objectives
from dicenas.strategies.samplers import check_sampler, make_sampler
from dicenas.strategies.trials import Outcome, Proposal, counts, describe, digest, from_dict, to_dict

__all__ = ["ArchitectureStudy", "SpaceExhaustedError"]

_logger = logging.getLogger(__name__)

# So many proposals in a row may be infeasible or known already before the study looks for a new one itself: samplers
# learn little from infeasible ones, and where they converged they may repeat known ones for ever. The Gaussian process
# learns nothing from them and takes half a second to propose much the same again.
_PATIENCE = 10
_PATIENCE_WITH_GP = 2
# A space that is not ours has no architectures to look for: there only the sampler proposes.
_PATIENCE_IN_FOREIGN_SPACES = 200


class SpaceExhaustedError(RuntimeError):
    """No further architecture was found that is new and meets the constraints."""


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
        claims: Decides who evaluates an architecture, where several processes work on the study.

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
        claims: Claims | None = None,
    ) -> None:
        check_sampler(sampler)
        self.space = space
        self.objectives = parse_objectives(objectives, directions)
        self.constraints: dict[str, float] = {}
        self._on_trial_end = on_trial_end
        self._claims = claims
        if isinstance(space, SpaceSpec):
            self._book = self._make_book(space, constraints or {}, costs or {}, image_size)
            self._distributions: dict[str, BaseDistribution] = {
                choice.label: CategoricalDistribution(choice.values) for choice in space.choices
            }
            self._size: float = space.size
            fingerprint = space.fingerprint
        elif constraints or costs:
            raise ValueError(
                "costs and constraints need the architectures of a SpaceSpec; "
                "in any other space the evaluation reports all metrics itself"
            )
        else:
            self._distributions = dict(space)
            self._size = math.prod(
                len(d.choices) if isinstance(d, CategoricalDistribution) else math.inf for d in space.values()
            )
            fingerprint = digest({label: optuna.distributions.distribution_to_json(d) for label, d in space.items()})

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
        self._start_session()

    def _make_book(
        self,
        space: SpaceSpec,
        constraints: Mapping[str, float],
        costs: Mapping[str, CostFunction],
        image_size: int | None,
    ) -> CostBook:
        known = {**default_costs(space, image_size), **costs}
        self.constraints = check_constraints(constraints, known)
        if "latency_ms" in self.objectives and "latency_ms" not in known:
            raise ValueError(
                "objective 'latency_ms' has no source: give costs={'latency_ms': function of an architecture}"
            )
        closed_forms = {name: bound for name, bound in self.constraints.items() if name not in costs}
        check_feasible(space, closed_forms, image_size)
        wanted = {"macs", "params", *self.objectives, *self.constraints, *costs}
        return CostBook(space, {name: known[name] for name in known if name in wanted}, self.constraints)

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
                self._book.known[trial.user_attrs["architecture_hash"]] = dict(trial.user_attrs["costs"])

    # What the study knows

    @property
    def trials(self) -> list[FrozenTrial]:
        """The trials that count, complete and failed: one for each architecture that was evaluated."""
        return [trial for trial in self._trials(TrialState.COMPLETE, TrialState.FAIL) if counts(trial)]

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
        self.settle()
        while True:
            if len(self._taken()) >= self._size:
                raise SpaceExhaustedError(f"all {self._size:,} architectures of the space are evaluated")
            proposal = self._examine(self.study.ask(self._distributions))
            if proposal is not None:
                return proposal
            fruitless += 1
            if isinstance(self.space, SpaceSpec):
                if fruitless % (_PATIENCE_WITH_GP if self._sampler == "gp" else _PATIENCE) == 0:
                    self.study.enqueue_trial(self.space.sample(self._find()))
            elif fruitless == _PATIENCE_IN_FOREIGN_SPACES:
                raise SpaceExhaustedError(f"the last {fruitless} proposals were all evaluated before")

    def _find(self) -> Architecture:
        """Return a new feasible architecture, found without the sampler."""
        taken = self._taken()
        for architecture in self._book.feasible(self._rng):
            if architecture.hash not in taken:
                return architecture
        if taken or not self.constraints:
            new = "new and meets the constraints" if self.constraints else "new"
            raise SpaceExhaustedError(f"no further architecture was found that is {new}")
        raise InfeasibleConstraintError(
            f"no architecture was found that meets all constraints: {self._book.smallest_seen()}"
        )

    def _taken(self) -> dict[str, FrozenTrial]:
        """Trials by hash of what they evaluated or are evaluating."""
        running = [
            trial
            for trial in self._trials(TrialState.RUNNING)
            if "architecture_hash" in trial.user_attrs and "duplicate_of" not in trial.user_attrs
        ]
        return {trial.user_attrs["architecture_hash"]: trial for trial in [*running, *self.trials]}

    def _proposal(self, number: int, params: Mapping[str, Any], costs: Mapping[str, float]) -> Proposal:
        if not isinstance(self.space, SpaceSpec):
            return Proposal(number, dict(params), digest(params))
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
        if known is None and self._claims is not None:
            holder = self._claims.claim(proposal.hash, trial.number)
            known = None if holder is None else self.study.get_trials(deepcopy=False)[holder]
        if known is not None:
            self._tell_duplicate(trial, known)
            return None
        if proposal.architecture is None:
            return proposal
        try:
            costs, violated = self._book.costs(proposal.architecture)
        except CostError as error:
            self._release(proposal)
            trial.set_user_attr("cost_error", str(error))
            self.study.tell(trial, state=TrialState.FAIL)
            return None
        for name, bound in self.constraints.items():
            if name in costs:
                trial.set_constraint(name, costs[name] - bound)
        trial.set_user_attr("costs", costs)
        if violated is not None:
            self._release(proposal)
            trial.set_user_attr(
                "infeasible", f"{violated} {costs[violated]:,.10g} > {self.constraints[violated]:,.10g}"
            )
            self.study.tell(trial, state=TrialState.PRUNED)
            return None
        return Proposal(trial.number, proposal.sample, proposal.hash, proposal.architecture, costs)

    def _release(self, proposal: Proposal) -> None:
        if self._claims is not None:
            self._claims.release(proposal.hash)

    def _tell_duplicate(self, trial: Trial, known: FrozenTrial) -> None:
        for name, value in known.constraints.items():
            trial.set_constraint(name, value)
        trial.set_user_attr("duplicate_of", known.number)
        self._settle(trial.number, known)

    def settle(self) -> None:
        """Tell the trials that drew what another one was evaluating, and whose result is there by now."""
        trials = self.study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state == TrialState.RUNNING and "duplicate_of" in trial.user_attrs:
                self._settle(trial.number, trials[trial.user_attrs["duplicate_of"]])

    def _settle(self, number: int, known: FrozenTrial) -> None:
        if known.state == TrialState.COMPLETE:
            self._end(number, {"metrics": known.user_attrs["metrics"]}, known.values)
        elif known.state.is_finished():
            self._end(number, {})

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
        outcome = Outcome(proposal.costs, error if isinstance(error, str) else describe(error))
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
        metrics = dict(outcome.metrics)
        if outcome.error is None:
            self._end(proposal.number, {"metrics": metrics}, [metrics[name] for name in self.objectives])
        else:
            _logger.warning("Trial %d failed: %s", proposal.number, outcome.error)
            self._end(proposal.number, {"metrics": metrics, "error": outcome.error})

    def _end(self, number: int, attrs: Mapping[str, Any], values: Sequence[float] | None = None) -> None:
        """End a trial with its values, or as failed; one that has ended, here or elsewhere, stays as it is."""
        try:
            for name, value in attrs.items():
                self._set_user_attr(number, name, value)
        except UpdateFinishedTrialError:
            return
        state = None if values is not None else TrialState.FAIL
        self.study.tell(number, values, state=state, skip_if_finished=True)

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

    def recover(self, numbers: Collection[int] | None = None) -> list[int]:
        """End the trials that are running as interrupted, and propose their architectures again first.

        For the start of a session, after one that was killed, and for the end of one that is interrupted. Nobody else
        may be working on these trials.

        Args:
            numbers: The trials, of those that are running; all by default.

        Returns:
            Numbers of the trials that were ended.
        """
        running = [t for t in self._trials(TrialState.RUNNING) if numbers is None or t.number in numbers]
        for trial in running:
            # In this order, a kill in between proposes an architecture twice rather than never.
            params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            if params and "duplicate_of" not in trial.user_attrs:
                self.study.enqueue_trial(params)
            self._end(trial.number, {"interrupted": True})
        return [trial.number for trial in running]

    def to_json(self) -> str:
        """Return all trials as JSON text, for :meth:`load_json`."""
        return json.dumps([to_dict(trial) for trial in self.study.get_trials(deepcopy=False)])

    def load_json(self, text: str) -> None:
        """Take up the trials of another session into a study that has none; one with a storage has them already."""
        if self.study.get_trials(deepcopy=False):
            return
        for data in json.loads(text):
            self.study.add_trial(from_dict(data))
        self.recover()
        self._start_session()
