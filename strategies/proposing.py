"""Making trials of what a sampler proposes: only what is new and feasible becomes one."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from optuna import Study
from optuna.trial import Trial, TrialState

from dicenas.architecture import Architecture
from dicenas.strategies.claims import Claims, StudyClaims
from dicenas.strategies.costs import CostFunction, InfeasibleConstraintError
from dicenas.strategies.index import HASH, INTERRUPTED, PASSED_OVER, TrialIndex
from dicenas.strategies.resampling import ResamplingSampler
from dicenas.strategies.samplers import draws, make_sampler
from dicenas.strategies.spaces import ArchitectureSpace, PassedOverError, SearchedSpace, SpaceExhaustedError
from dicenas.strategies.trials import Proposal, describe

__all__ = ["Proposer"]

_logger = logging.getLogger(__name__)


class Proposer:
    """Asks for trials of an Optuna study, and takes back those that came to nothing.

    Args:
        study: The study; its sampler is set.
        index: Reads and ends its trials.
        searched: The space.
        constraints: Upper bounds by name of cost.
        sampler: Name of the sampler.
        seed: Seed of the sampler.
        claims: Decides who evaluates an architecture; by default what the trials of the study say.
        objective_costs: The objectives that are quickly told of any architecture, by their index.
    """

    def __init__(
        self,
        study: Study,
        index: TrialIndex,
        searched: SearchedSpace,
        constraints: Mapping[str, float],
        sampler: str,
        seed: int | None,
        claims: Claims | None,
        objective_costs: Mapping[int, CostFunction],
    ) -> None:
        self._study, self._index, self._searched = study, index, searched
        self._constraints = constraints
        self._claims_in_study = claims is None
        self._claims = claims or StudyClaims(index)
        self._claimed: str | None = None
        self._sampler = ResamplingSampler(
            make_sampler(
                sampler,
                seed,
                searched.closed_forms if isinstance(searched, ArchitectureSpace) else None,
                objective_costs,
            ),
            searched,
            accept=self._accept,
            evaluations=lambda: index.finished,
            draws=draws(sampler),
            near=sampler != "random",
        )
        study.sampler = self._sampler

    def enqueue(self, architecture: Architecture) -> bool:
        """Do what :meth:`~dicenas.strategies.ArchitectureStudy.enqueue` says."""
        if not isinstance(self._searched, ArchitectureSpace):
            raise ValueError("only a study over a SpaceSpec takes architectures")
        params = self._searched.params(architecture)
        self._index.refresh()
        if self._index.holders(architecture.hash):
            return False
        try:
            self._searched.examine(self._searched.propose(-1, params))
        except PassedOverError as reason:
            raise ValueError(f"architecture {architecture.hash} cannot be enqueued: {reason}") from reason
        self._index.enqueue(params, architecture.hash)
        return True

    def ask(self) -> Proposal:
        """Do what :meth:`~dicenas.strategies.ArchitectureStudy.ask` says."""
        while True:
            self._index.refresh()
            if self._index.held >= self._searched.size and not self._index.waiting:
                raise SpaceExhaustedError(f"all {self._searched.size:,} architectures of the space are evaluated")
            self._sampler.start()
            self._claimed = None
            try:
                trial = self._study.ask(self._searched.distributions)
                proposal = self._sampler.take(trial.number) or self._take_given(trial)
                self._describe(trial, proposal)
            except PassedOverError as reason:  # what was enqueued; what the sampler draws is drawn again before this
                _logger.info("Trial %d was enqueued and is passed over: %s", self._sampler.trial, reason)
                # By the claims in a study two that claim at the same time may both give way.
                self._drop(str(reason), again=reason.kind == "duplicate" and self._claims_in_study)
            except BaseException as error:
                # A trial of nothing would be taken for one that is being evaluated.
                self._drop(describe(error), again=True)
                if isinstance(error, InfeasibleConstraintError) and self._index.held:
                    raise SpaceExhaustedError("no further architecture was found that meets the constraints") from error
                raise
            else:
                return proposal

    def _take_given(self, trial: Trial) -> Proposal:
        """Return the proposal of a trial that was enqueued."""
        proposal = self._accept(self._searched.propose(trial.number, trial.params))
        self._sampler.join(self._study, self._study.get_trials(deepcopy=False)[trial.number])
        return proposal

    def _accept(self, proposal: Proposal) -> Proposal:
        """Return a proposal with its costs, claimed for its trial.

        Raises:
            PassedOverError: It is not worth a trial.
        """
        if others := self._index.holders(proposal.hash) - {proposal.number}:
            raise PassedOverError("duplicate", f"trial {min(others)} has it")
        examined = self._searched.examine(proposal)
        if (holder := self._claims.claim(proposal.hash, proposal.number)) is not None:
            raise PassedOverError("duplicate", f"trial {holder} has it")
        self._claimed = proposal.hash
        return examined

    def _describe(self, trial: Trial, proposal: Proposal) -> None:
        if not self._claims_in_study:
            trial.set_user_attr(HASH, proposal.hash)
        if proposal.costs:
            trial.set_user_attr("costs", dict(proposal.costs))
        for name, bound in self._constraints.items():
            trial.set_constraint(name, proposal.costs[name] - bound)
        if passed_over := dict(+self._sampler.passed_over):
            trial.set_user_attr(PASSED_OVER, passed_over)

    def _drop(self, reason: str, again: bool) -> None:
        """End the trial that was asked for in vain; with ``again`` what was enqueued stays so, if nobody has it."""
        if (number := self._sampler.trial) is None:
            return
        if self._claimed is not None:
            self._claims.release(self._claimed)
        trial = self._study.get_trials(deepcopy=False)[number]
        self._index.end(number, {"passed_over_for": reason, PASSED_OVER: dict(+self._sampler.passed_over)})
        given = trial.system_attrs.get("fixed_params", {})
        if again and self._is_whole(given):
            self._index.refresh()
            digest = self._searched.propose(number, given).hash
            if not self._index.holders(digest):
                self._index.enqueue(given, digest)

    def _is_whole(self, params: Mapping[str, Any]) -> bool:
        return self._searched.distributions.keys() <= params.keys()

    def recover(self, numbers: Collection[int] | None = None) -> list[int]:
        """Do what :meth:`~dicenas.strategies.ArchitectureStudy.recover` says."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if numbers is not None:
            running = [trial for trial in running if trial.number in numbers]
        for trial in running:
            # In this order a kill in between proposes an architecture twice rather than never, and nobody who takes
            # the enqueued trial at once finds that this one still has it.
            if not self._index.set_user_attr(trial.number, INTERRUPTED, True):
                continue
            params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            # One that was killed while its parameters were drawn had proposed nothing yet.
            if self._is_whole(params):
                self._index.enqueue(params, self._searched.propose(trial.number, params).hash)
            self._index.end(trial.number, {})
        return [trial.number for trial in running]
