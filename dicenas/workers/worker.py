"""The loop of a worker: ask, evaluate, keep, tell, until the study has its trials."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from dicenas.evaluation import Evaluate, Report, StopEvaluation
from dicenas.events import finite
from dicenas.runs import RESERVED_METRICS
from dicenas.strategies import Proposal, SpaceExhaustedError
from dicenas.workers.board import BEAT_EVERY_S, BudgetSpentError
from dicenas.workers.network import LazyNetwork
from dicenas.workers.shared import SharedStudy
from dicenas.workers.storage import STORAGE_ERRORS, Patience, StorageLostError, retrying

__all__ = ["Rungs", "Worker"]

logger = logging.getLogger(__name__)

# How long a worker that has nothing to do waits before it looks again, in seconds.
_IDLE_S = 0.5
_IDLE_LONG_S = 10.0


class Rungs(Protocol):
    """Decides which trials are worth going on with, see :class:`dicenas.strategies.SuccessiveHalving`."""

    @property
    def rungs(self) -> tuple[int, ...]:
        """Steps at which it is decided."""

    def record(self, trial: int, step: int, metrics: Mapping[str, float]) -> None:
        """Take up what another trial reported."""

    def forget(self, trials: Iterable[int]) -> None:
        """Drop what trials reported that are going to be evaluated again."""

    def goes_on(self, trial: int, step: int, metrics: Mapping[str, float]) -> bool:
        """Record what a trial reports, and return whether it goes on."""


class Worker:
    """Evaluates architectures of a study, one at a time.

    Args:
        shared: The search.
        evaluate: Evaluates an architecture.
        seed: Seed of the initial weights.
        keeps_weights: Whether the weights are kept that an evaluation leaves in its network.
        rungs: Which trials go on; ``None`` for all.
    """

    def __init__(
        self,
        shared: SharedStudy,
        evaluate: Evaluate,
        seed: int,
        *,
        keeps_weights: bool = True,
        rungs: Rungs | None = None,
    ) -> None:
        self._shared = shared
        self._evaluate = evaluate
        self._seed = seed
        self._keeps_weights = keeps_weights
        self._rungs = rungs
        self._reported: set[int] = set()  # trials of others whose reports the rungs know of

    def run(self, total: int, most: int | None = None) -> str | None:
        """Evaluate until the study has its trials; others may be working on it too.

        Args:
            total: Trials of the whole study.
            most: How many trials this worker evaluates at most; ``None`` for no limit.

        Returns:
            Why it ended before, ``None`` where it did not.

        Raises:
            InfeasibleConstraintError: Nothing in the space was found to meet the constraints.
            StorageLostError: The database refused, or did not answer for :data:`~dicenas.workers.storage.PATIENCE_S`.
        """
        shared, done = self._shared, 0
        patience = Patience("the database of the study")
        with self._alive():
            while most is None or done < most:
                try:
                    shared.recover()
                    counts = shared.board.counts()
                    finished, running = counts.get("finished", 0), counts.get("running", 0)
                    if finished >= total:
                        return None
                    if finished + running >= total:
                        patience.renew()
                        time.sleep(_IDLE_S)
                        continue
                    try:
                        proposal = shared.study.ask()
                    except BudgetSpentError:
                        continue
                    except SpaceExhaustedError as reason:
                        if not running:
                            return str(reason)
                        patience.renew()
                        # Only what others give up can still come, and each attempt leaves a trace in the study.
                        time.sleep(_IDLE_LONG_S)
                        continue
                    self._run_trial(proposal)
                    done += 1
                    patience.renew()
                except STORAGE_ERRORS as error:
                    patience.wait(error)
                    retrying(shared.resolve_own, "the database of the study")
        return None

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Let others know that this process lives, and let go of what it has when it ends."""
        board, stopped = self._shared.board, threading.Event()

        def beat() -> None:
            while not stopped.wait(BEAT_EVERY_S):
                try:
                    board.beat()
                except STORAGE_ERRORS as error:  # the loop itself decides when that is an end
                    logger.info("no heartbeat: %s", error)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            try:
                self._shared.resolve_own()
                board.leave()
            except STORAGE_ERRORS as error:  # what this process leaves behind is taken up by others, or the next start
                logger.warning("the database could not be told that this worker ends: %s", error)

    def _run_trial(self, proposal: Proposal) -> None:
        shared = self._shared
        assert proposal.architecture is not None
        net = LazyNetwork(proposal.architecture, self._seed)
        last: dict[str, float] = {}
        report = self._reporter(proposal, last)
        shared.events.write("trial_started", trial=proposal.number, architecture=proposal.hash)
        try:
            try:
                metrics = dict(self._evaluate(proposal.architecture, net, report))
            except StopEvaluation:
                logger.info("trial %d is not worth going on with", proposal.number)
                metrics = last
            if taken := RESERVED_METRICS.intersection(metrics):
                raise ValueError(f"metrics may not be called {', '.join(sorted(taken))}: a trial's file has these keys")
        except StorageLostError:  # no fault of the evaluation, at a rung
            raise
        # SystemExit too: somebody else's code must not end a search.
        except (Exception, SystemExit) as error:
            logger.exception("the evaluation of architecture %s failed", proposal.hash)
            failure = error.with_traceback(None)  # the frames may hold all the memory that was asked for
        else:
            if self._keeps_weights:
                shared.networks[proposal.hash] = net
            shared.tell(proposal, metrics)
            return
        shared.fail(proposal, failure)

    def _reporter(self, proposal: Proposal, last: dict[str, float]) -> Report:
        """Return what an evaluation reports to; ``last`` is what was reported last, with its step as ``epochs``."""

        def report(step: int, metrics: Mapping[str, float]) -> None:
            last.clear()
            last.update({**metrics, "epochs": step})
            shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            logger.info("trial %d, step %d: %s", proposal.number, step, shown)
            self._shared.events.write("step", trial=proposal.number, step=step, metrics=finite(metrics))
            if self._rungs is not None and step in self._rungs.rungs:
                self._at_rung(self._rungs, proposal, step, {**proposal.costs, **metrics})

        return report

    def _at_rung(self, rungs: Rungs, proposal: Proposal, step: int, metrics: Mapping[str, float]) -> None:
        board, number = self._shared.board, proposal.number

        def others() -> None:
            reports = [report for report in board.reports() if report[0] != number]
            there = {trial for trial, _, _ in reports}
            # What a killed worker's trial had reached counts no more: its architecture is evaluated again.
            rungs.forget(self._reported - there)
            self._reported = there
            for trial, at, reported in reports:
                rungs.record(trial, at, reported)

        what = "the database of the study"
        retrying(others, what)
        goes_on = rungs.goes_on(number, step, metrics)
        retrying(lambda: board.report(number, step, metrics), what)
        if not goes_on:
            raise StopEvaluation(f"trial {number} is not among the best at step {step}")
