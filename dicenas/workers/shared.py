"""A search that several processes work on: its run folder, its study and its claims, kept in step."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from optuna.storages import RDBStorage
from optuna.trial import TrialState
from torch import nn

from dicenas.events import EventLog, finite
from dicenas.runs import RunFolder, TrialRecord
from dicenas.strategies import ArchitectureStudy, Outcome, Proposal
from dicenas.workers.board import SILENT_FOR_S, Board, Claim
from dicenas.workers.storage import retrying

__all__ = ["MOST_DEATHS", "SharedStudy"]

logger = logging.getLogger(__name__)

#: An evaluation that so many processes died over is not tried again.
MOST_DEATHS = 3
_LOOK_EVERY_S = 5.0


@dataclass
class SharedStudy:
    """Keeps files, study and claims of a search in step, whoever is killed at whatever moment.

    A trial is finished once its ``metrics.json`` is on disk; study and claims are told afterwards, and are told again
    from the files where that was cut off.

    Args:
        run: The run folder.
        database: The database of the study.
        board: The claims of the study.
        events: Takes what happens.
        details: Gives metrics to be kept with a trial beside those of its outcome.

    Attributes:
        networks: Networks whose weights are kept when their trial is told, by hash of the architecture.
    """

    run: RunFolder
    database: RDBStorage
    board: Board
    events: EventLog
    details: Callable[[Proposal], Mapping[str, float]]
    networks: dict[str, nn.Module] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._study: ArchitectureStudy | None = None
        self._looked = -_LOOK_EVERY_S
        self._unclaimed: dict[int, float] = {}

    @property
    def study(self) -> ArchitectureStudy:
        """The study, which is made with this object's :meth:`keep` and :attr:`board`."""
        assert self._study is not None
        return self._study

    @study.setter
    def study(self, study: ArchitectureStudy) -> None:
        self._study = study

    def close(self) -> None:
        """Say that this worker ended, and close the database."""
        retrying(self.board.leave, "the database of the study")
        self.board.disconnect()
        self.database.remove_session()
        self.database.engine.dispose()

    @property
    def finished(self) -> int:
        """Number of trials that are finished."""
        return retrying(self.board.counts, "the database of the study").get("finished", 0)

    # Results

    def keep(self, proposal: Proposal, outcome: Outcome) -> None:
        """Write a trial to the run folder; called before Optuna is told of it."""
        assert proposal.architecture is not None
        network = self.networks.pop(proposal.hash, None)
        if network is not None and outcome.error is None:
            self.run.write_weights(proposal.number, network.state_dict())
        metrics = {**outcome.metrics, **self.details(proposal)}
        record = TrialRecord(proposal.number, proposal.architecture, outcome.state, metrics, outcome.error)
        self.run.write_trial(record)
        shown = outcome.error or ", ".join(f"{name} {metrics[name]:.4g}" for name in self.study.objectives)
        logger.info("trial %d %s: %s", record.number, record.state, shown)
        values = {name: outcome.metrics[name] for name in self.study.objectives if name in outcome.metrics}
        self.events.write(
            "trial_ended",
            trial=record.number,
            state=record.state,
            metrics=finite({**values, **outcome.metrics}),  # the objectives first
            error=outcome.error,
        )

    def tell(self, proposal: Proposal, metrics: Mapping[str, float]) -> None:
        """End a trial with its metrics."""
        self.study.tell(proposal, metrics)
        self.board.finish(proposal.hash, proposal.number)

    def fail(self, proposal: Proposal, error: BaseException | str) -> None:
        """End a trial as failed."""
        self.networks.pop(proposal.hash, None)
        self.study.fail(proposal, error)
        self.board.finish(proposal.hash, proposal.number)

    def collect(self) -> None:
        """Write what workers on other machines told the study, and kept in folders of their own, into this one."""
        here = set(self.run.trial_numbers())
        for trial in self.study.trials:
            architecture = self.study.proposal(trial).architecture
            if trial.number not in here and architecture is not None:
                error = trial.user_attrs.get("error")
                state: Literal["complete", "failed"] = "complete" if error is None else "failed"
                self.run.write_trial(
                    TrialRecord(trial.number, architecture, state, trial.user_attrs.get("metrics", {}), error)
                )

    # Recovering

    def take_up(self) -> None:
        """Begin where earlier sessions ended, however they did."""
        self.board.register()
        self.replay()
        self.recover(at_once=True)

    def replay(self) -> None:
        """Tell study and claims of every trial whose result is on disk: a session may have been killed before it did.

        Raises:
            ValueError: A file is damaged, or belongs to another study.
        """
        known = self.board.finished()
        for trial in self.run.trials():
            self.study.replay(trial.number, trial.metrics, trial.error)
            if trial.architecture.hash not in known:
                self.board.finish(trial.architecture.hash, trial.number)

    def resolve(self, claim: Claim, *, died: str | None = None, failed: str | None = None) -> None:
        """Decide what becomes of a trial whose evaluation was cut off.

        Where its result is on disk, that is told. Else it is proposed again, unless it failed.

        Args:
            claim: The claim on it, held by this process.
            died: How the process that evaluated it died; after :data:`MOST_DEATHS` the trial has failed.
            failed: Why it has failed at once.
        """
        if (record := self._record(claim)) is not None:
            self.study.replay(record.number, record.metrics, record.error)
            self.board.finish(claim.architecture, claim.trial)
            return
        trials = self.study.study.get_trials(deepcopy=False)
        exists = claim.trial < len(trials) and trials[claim.trial].state == TrialState.RUNNING
        if died is not None and claim.deaths + 1 >= MOST_DEATHS:
            failed = f"{MOST_DEATHS} processes died while they evaluated it (the last one {died})"
        if failed is not None and exists:
            self.fail(self.study.proposal(trials[claim.trial]), failed)
            return
        # In this order, an architecture that is proposed again can be claimed again.
        self.board.release(claim.architecture, died=died is not None)
        self.study.recover([claim.trial])
        self.board.forget(claim.trial)
        self.events.write("trial_interrupted", trial=claim.trial, reason=died)

    def resolve_own(self) -> None:
        """Let go of what this process was evaluating: it is interrupted, or lost its database for a while."""
        for claim in self.board.running():
            if claim.worker == self.board.worker:
                self.resolve(claim)

    def recover(self, *, at_once: bool = False) -> None:
        """Take over the trials of workers that are gone; done every few seconds, however often it is called.

        Args:
            at_once: Whether it is done now.
        """
        now = time.monotonic()
        if not at_once and now - self._looked < _LOOK_EVERY_S:
            return
        self._looked = now
        # Read before the workers: who is not among them can have asked for none of these.
        running = self.study.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        gone = {worker.id: self.board.is_gone(worker) for worker in self.board.workers()}
        for claim in self.board.running():
            if gone.get(claim.worker, True) and self.board.take_over(claim):
                logger.warning("the worker that evaluated trial %d is gone", claim.trial)
                self.resolve(claim, died="disappeared")
        others = any(not is_gone for worker, is_gone in gone.items() if worker != self.board.worker)
        self._recover_unclaimed([trial.number for trial in running], patience_s=SILENT_FOR_S if others else 0.0)

    def _recover_unclaimed(self, running: list[int], patience_s: float) -> None:
        """End trials of processes that were killed after they asked for them and before they claimed anything."""
        now = time.monotonic()
        claimed = {claim.trial for claim in self.board.running()}
        numbers = [number for number in running if number not in claimed]
        self._unclaimed = {number: self._unclaimed.get(number, now) for number in numbers}
        stale = [number for number, since in self._unclaimed.items() if now - since >= patience_s]
        if stale:
            self.study.recover(stale)

    def _record(self, claim: Claim) -> TrialRecord | None:
        if claim.trial not in self.run.trial_numbers():
            return None
        record = self.run.read_trial(claim.trial)
        return record if record.architecture.hash == claim.architecture else None
