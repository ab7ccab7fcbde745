"""A study of architectures: a sampler proposes, cheap costs decide, only what is new and feasible is evaluated."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from dicenas.architecture import Architecture
from dicenas.pareto import Direction, pareto_front
from dicenas.space import SpaceSpec
from dicenas.strategies.claims import Claims
from dicenas.strategies.closed_forms import ClosedForms
from dicenas.strategies.costs import CLOSED_FORMS, CostFunction, bounded_costs
from dicenas.strategies.feasible import CostBook
from dicenas.strategies.index import HASH, ProposalCounts, TrialIndex
from dicenas.strategies.objectives import parse_objectives
from dicenas.strategies.promising import most_promising_first
from dicenas.strategies.proposing import Proposer
from dicenas.strategies.samplers import check_sampler, session_seed
from dicenas.strategies.spaces import (
    ArchitectureSpace,
    ParameterSpace,
    SearchedSpace,
)
from dicenas.strategies.trials import Outcome, Proposal, describe, from_dict, judge, to_dict

__all__ = ["ArchitectureStudy"]

_logger = logging.getLogger(__name__)


class ArchitectureStudy:
    """One Optuna study over a space of architectures.

    :meth:`ask` proposes an architecture that was not evaluated before and meets every constraint; :meth:`tell` and
    :meth:`fail` end its trial::

        study = ArchitectureStudy(space, "evolution", ("accuracy", "macs"), constraints={"macs": 60e6})
        while study.remaining(100):
            proposal = study.ask()
            study.tell(proposal, {"accuracy": accuracy(proposal.architecture)})
        study.best_trials

    What the sampler proposes is costed before it becomes a trial, cheapest costs first and once for each
    architecture; what is infeasible or known is drawn again, with a count in :attr:`counts`. Any number of processes
    may work on one study in a storage.

    Every label of the space is a parameter of every Optuna trial, active or not: genetic samplers and the Gaussian
    process work only on parameters that all trials share and draw any other at random.

    Args:
        space: A :class:`~dicenas.space.SpaceSpec`, or Optuna's distributions by label for any other space; there
            costs and constraints cannot be used.
        sampler: One of :data:`~dicenas.strategies.SAMPLERS`.
        objectives: Names of the objectives, or directions by name.
        directions: Directions of the objectives; not needed for well-known metrics.
        constraints: Upper bounds by name of cost.
        costs: Functions of an architecture by name of cost, beside and before those of
            :func:`~dicenas.strategies.default_costs`. ``peak_memory_mb`` is computed where an objective or a
            constraint names it.
        cheap_costs: Names of given costs that take a millisecond or less: where they are objectives, the sampler
            ``predictor`` asks for those of all its candidates, as it does for ``macs`` and ``params``.
        image_size: Image size at which the default costs are counted; each architecture's own by default.
        storage: Optuna storage or its URL; in memory by default.
        study_name: Name of the study in the storage, ``"dicenas"`` by default.
        seed: Seed; sessions that take a study up again draw other numbers than the first.
        worker: Number of this process among those that work on the study: each draws numbers of its own.
        on_trial_end: Called with each proposal and its outcome before Optuna is told, so that results can be on disk
            before they count.
        claims: Decides who evaluates an architecture, where several processes work on the study; by default what the
            trials of the study say.

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
        cheap_costs: Collection[str] = (),
        image_size: int | None = None,
        storage: str | BaseStorage | None = None,
        study_name: str | None = None,
        seed: int | None = None,
        worker: int = 0,
        on_trial_end: Callable[[Proposal, Outcome], None] | None = None,
        claims: Claims | None = None,
    ) -> None:
        check_sampler(sampler)
        self.space = space
        self.objectives = parse_objectives(objectives, directions)
        self.constraints: dict[str, float] = {}
        self._on_trial_end = on_trial_end
        self._claims = claims
        self._rng = Random()
        self._searched: SearchedSpace
        self._objective_costs: dict[int, CostFunction] = {}
        if unknown := set(cheap_costs) - set(costs or {}):
            raise ValueError(f"cheap_costs {', '.join(sorted(unknown))}: costs has no such function")
        if isinstance(space, SpaceSpec):
            functions, self.constraints, closed_forms = bounded_costs(
                space, self.objectives, constraints or {}, costs or {}, image_size
            )
            book = CostBook(functions, self.constraints)
            cheap = {*CLOSED_FORMS, *cheap_costs} - (set(costs or {}) - set(cheap_costs))
            self._objective_costs = {
                index: partial(book.cost, name)
                for index, name in enumerate(self.objectives)
                if name in cheap and name in functions
            }
            self._searched = ArchitectureSpace(space, book, ClosedForms(space, closed_forms, image_size), self._rng)
        elif constraints or costs:
            raise ValueError(
                "costs and constraints need the architectures of a SpaceSpec; "
                "in any other space the evaluation reports all metrics itself"
            )
        else:
            self._searched = ParameterSpace(space, self._rng)

        self._storage = optuna.storages.get_storage(storage)
        self.study = optuna.create_study(
            storage=self._storage,
            study_name=study_name or (None if storage is None else "dicenas"),
            directions=list(self.objectives.values()),
            load_if_exists=True,
        )
        self._check_identity(
            {
                "space": self._searched.fingerprint,
                "objectives": self.objectives,
                "constraints": self.constraints,
                "image_size": image_size,
            }
        )
        self._sampler_name, self._seed, self._worker = sampler, seed, worker
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
        seed = session_seed(self._seed, len(trials), self._worker)
        self._rng.seed(None if seed is None else f"find {seed}")
        self._index = TrialIndex(self.study, self._storage)
        self._proposer = Proposer(
            self.study,
            self._index,
            self._searched,
            self.constraints,
            self._sampler_name,
            seed,
            self._claims,
            self._objective_costs,
        )
        if isinstance(self._searched, ArchitectureSpace):
            for trial in trials:
                if "costs" in trial.user_attrs:
                    self._searched.know(trial.user_attrs[HASH], trial.user_attrs["costs"])

    # What the study knows

    @property
    def trials(self) -> list[FrozenTrial]:
        """The trials that count, complete and failed: one for each architecture that was evaluated."""
        self._index.refresh()
        return self._index.evaluations

    @property
    def finished(self) -> int:
        """Number of trials that count."""
        self._index.refresh()
        return self._index.finished

    @property
    def counts(self) -> ProposalCounts:
        """What became of the proposals of all sessions."""
        self._index.refresh()
        return self._index.counts

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
        return self._searched.propose(trial.number, trial.params, trial.user_attrs.get("costs", {}))

    # Proposing

    def enqueue(self, architecture: Architecture) -> bool:
        """Have an architecture evaluated before anything that the sampler proposes.

        Args:
            architecture: A point of the space, say a known network.

        Returns:
            Whether it is news: nothing changes for an architecture that was evaluated or is enqueued.

        Raises:
            ValueError: It is not a point of the space, or breaks a constraint; the message says in what.
        """
        return self._proposer.enqueue(architecture)

    def enqueue_promising(self, scores: Mapping[Architecture, float], count: int) -> list[Architecture]:
        """Have the most promising of many architectures evaluated before anything that the sampler proposes.

        Which these are is told by the scores and by those objectives that are quickly told; MACs stand in for one that
        is a cost and takes longer. Architectures that break a constraint are passed over.

        Args:
            scores: Points of the space, with a score that promises accuracy; more is better.
            count: How many are wanted; those that were evaluated, or are enqueued, count.

        Returns:
            These architectures, fewer where no more meet the constraints.

        Raises:
            ValueError: The space has no architectures.
        """
        if not isinstance(self._searched, ArchitectureSpace):
            raise ValueError("only a study over a SpaceSpec takes architectures")
        within = {architecture: scores[architecture] for architecture in self._searched.within_closed_forms(scores)}
        costs = []
        for index, (name, direction) in enumerate(self.objectives.items()):
            if self._searched.knows(name):
                told = self._searched.costs(name if index in self._objective_costs else "macs", within)
                costs.append(told if direction == "minimize" else {key: -cost for key, cost in told.items()})
        found: list[Architecture] = []
        for architecture in most_promising_first(within, costs):
            if len(found) == count:
                break
            try:
                self.enqueue(architecture)
            except ValueError as reason:
                _logger.info("promising, but passed over: %s", reason)
            else:
                found.append(architecture)
        if len(found) < count:
            _logger.warning(
                "of %d scored architectures %d meet the constraints: %d were wanted", len(scores), len(found), count
            )
        return found

    def ask(self) -> Proposal:
        """Return an architecture to evaluate: new, and within the constraints.

        Raises:
            InfeasibleConstraintError: Nothing in the space was found to meet the constraints.
            SpaceExhaustedError: Nothing further was found.
        """
        return self._proposer.ask()

    # Results

    def tell(self, proposal: Proposal, metrics: Mapping[str, float]) -> Outcome:
        """End a trial with what its evaluation reported.

        Costs stand in for objectives that were not reported. A trial that lacks an objective, or in which one is NaN
        or infinite, failed; other metrics that are not finite are left out.
        """
        outcome = judge(proposal, metrics, self.objectives)
        self._finish(proposal, outcome)
        return outcome

    def fail(self, proposal: Proposal, error: BaseException | str) -> Outcome:
        """End a trial whose evaluation failed; it counts, and its architecture is not proposed again."""
        outcome = Outcome(proposal.costs, error if isinstance(error, str) else describe(error))
        self._finish(proposal, outcome)
        return outcome

    def _finish(self, proposal: Proposal, outcome: Outcome) -> None:
        if self._on_trial_end is not None:
            self._on_trial_end(proposal, outcome)
        self._tell(proposal, outcome)

    def _tell(self, proposal: Proposal, outcome: Outcome) -> None:
        metrics = dict(outcome.metrics)
        if outcome.error is None:
            self._index.end(proposal.number, {"metrics": metrics}, [metrics[name] for name in self.objectives])
        else:
            _logger.warning("Trial %d failed: %s", proposal.number, outcome.error)
            self._index.end(proposal.number, {"metrics": metrics, "error": outcome.error})

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
        self._tell(
            proposal, judge(proposal, metrics, self.objectives) if error is None else Outcome(dict(metrics), error)
        )
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
        return self._proposer.recover(numbers)

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
