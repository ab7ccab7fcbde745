"""One call of a search over a run folder, in this process or in workers of its own."""

from __future__ import annotations

import dataclasses
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, RDBStorage

from dicenas.architecture import Architecture
from dicenas.evaluation import Evaluator
from dicenas.events import Event, EventLog
from dicenas.report import write_report
from dicenas.run_latency import MeasuredLatency, TableLatency, latency_source, peak_memory
from dicenas.run_session import claim_folder, ended_well, lock_folder, logs_in, muted, record_environment
from dicenas.runs import RunFolder
from dicenas.strategies import ArchitectureStudy, Proposal
from dicenas.workers.board import Board
from dicenas.workers.manifest import DATA_FOUND, check_manifest, write_manifest
from dicenas.workers.progress import Progress
from dicenas.workers.shared import SharedStudy
from dicenas.workers.storage import (
    SHORT_PATIENCE_S,
    board_engine,
    hide_password,
    open_proxy,
    open_storage,
    open_study_db,
    retrying,
)
from dicenas.workers.supervisor import Child, Supervisor, forked, telling
from dicenas.workers.task import Task, Workers
from dicenas.workers.tensorboard import Scalars
from dicenas.workers.worker import Worker

__all__ = ["Session"]

logger = logging.getLogger(__name__)

_DATABASE = "the database of the study"


class Session:
    """One call of a search over a run folder.

    Args:
        run: The run folder.
        task: What is searched for.
        workers: Who works on it.

    Raises:
        ValueError: An argument is wrong, or the bounds cannot be met together.
    """

    def __init__(self, run: RunFolder, task: Task, workers: Workers) -> None:
        self.run_folder = run
        self._task = task
        self._workers = workers
        known = dict(task.evaluate.costs) if isinstance(task.evaluate, Evaluator) else {}
        self._latency = latency_source(known.get("latency_ms", task.latency), task.space, run)
        self._peak_memory_mb = peak_memory(task.latency)
        sources = {"latency_ms": self._latency, "peak_memory_mb": self._peak_memory_mb}
        wanted = {*task.objectives, *task.constraints}
        quick = "latency_ms" in known or isinstance(self._latency, TableLatency)
        self._arguments: dict[str, Any] = {
            "sampler": task.sampler,
            "objectives": task.objectives,
            "constraints": task.constraints,
            "costs": {name: cost for name, cost in {**sources, **known}.items() if name in wanted or name in known},
            "cheap_costs": ["latency_ms"] if "latency_ms" in wanted and quick else [],
            "image_size": self._latency.input_size,
            "seed": task.seed,
        }
        # A study in memory checks all arguments before a file is written, and whether the bounds can be met together.
        arguments = dict(self._arguments)
        if "latency_ms" in arguments["costs"] and not self._latency.ready:
            # The table is built once the run folder is there; until then all other bounds are checked.
            arguments["costs"] = {**arguments["costs"], "latency_ms": lambda architecture: 0.0}
        with muted("optuna"):
            rehearsal = ArchitectureStudy(task.space, **arguments)
            if not run.config_path.is_file():
                for architecture in task.first:
                    rehearsal.enqueue(architecture)
                if task.constraints:
                    rehearsal.ask()
        self.objectives = rehearsal.objectives

    # The whole search

    def run(self, settings: Mapping[str, Any], trials: int) -> int:
        """Run the missing trials, and complete the run folder.

        Args:
            settings: What the run folder and the study keep, and later calls must agree with.
            trials: Trials of the whole study.

        Returns:
            How many trials were added.
        """
        run = self.run_folder
        with lock_folder(run):
            claim_folder(run, settings)
            with logs_in(run):
                return self._run(settings, trials)

    def _run(self, settings: Mapping[str, Any], trials: int) -> int:
        run = self.run_folder
        shared = retrying(lambda: self._open(settings, trials), _DATABASE, patience_s=SHORT_PATIENCE_S)
        retrying(shared.take_up, _DATABASE)
        before = shared.finished
        logger.info("%d of %d trials are there", before, trials)
        if before < trials or not ended_well(run):
            with record_environment(run):
                if before < trials:
                    for architecture in self._task.first:
                        shared.study.enqueue(architecture)
                    self._run_trials(shared, settings, trials)
                    logger.info("proposals: %s", shared.study.counts)
                self._finish(shared, trials)
                retrying(shared.collect, _DATABASE)
                self._complete_front()
                run.write_front(self.objectives)
            write_report(run)
        added = shared.finished - before
        shared.close()
        return added

    def _run_trials(self, shared: SharedStudy, settings: Mapping[str, Any], trials: int) -> None:
        run, workers = self.run_folder, self._workers
        lines = workers.count if workers.apart else 0
        with ExitStack() as stack:
            shows = [stack.enter_context(Progress(run.path.name, trials, shared.finished, lines)).show]
            if workers.tensorboard:
                shows.append(stack.enter_context(Scalars(run.path / "tensorboard", self.objectives)).write)

            def show(event: Event) -> None:
                for each in shows:
                    each(event)

            if not workers.apart:
                shared.events = EventLog(run.events_path, watch=show)
                reason = self._work(shared, trials)
            else:
                self._warn_of_noise()

                def start(index: int, descriptor: int) -> Child:
                    shared.board.disconnect()
                    return forked(lambda parent: self.work(settings, trials, index, descriptor, parent))

                shared.events = EventLog(run.events_path, worker=None, watch=show)
                supervisor = Supervisor(shared, workers.start or start, workers.count, workers.limits, show)
                supervisor.run()
                reason = supervisor.stop_reason
        if reason is not None:
            logger.warning("the search ended before its %d trials: %s", trials, reason)

    def _warn_of_noise(self) -> None:
        measured = "latency_ms" in self._arguments["costs"] and isinstance(self._latency, MeasuredLatency)
        if measured and self._workers.count > 1:
            logger.warning(
                "%d workers measure latency while the others train: a latency table, built before, keeps the figures "
                "clean (latency.table)",
                self._workers.count,
            )

    # One worker

    def work(
        self,
        settings: Mapping[str, Any],
        trials: int,
        index: int | None = None,
        descriptor: int | None = None,
        parent: int | None = None,
        most: int | None = None,
    ) -> str | None:
        """Work on the study beside others.

        Args:
            settings: What the study must agree with.
            trials: Trials of the whole study.
            index: Place among the workers; by default as many as registered before.
            descriptor: File descriptor that events are told to.
            parent: Process without which this one ends.
            most: Trials of this worker at most.

        Returns:
            Why it ended before the study had its trials, ``None`` where it did not.
        """
        if parent is not None:
            threading.Thread(target=_end_with, args=(parent,), name="parent", daemon=True).start()
        watch = None if descriptor is None else telling(descriptor)
        with logs_in(self.run_folder, terminal=descriptor is None):
            return self._work_watched(settings, trials, index, watch, most)

    def _work_watched(
        self,
        settings: Mapping[str, Any],
        trials: int,
        index: int | None,
        watch: Callable[[Event], None] | None,
        most: int | None,
    ) -> str | None:
        events = EventLog(self.run_folder.events_path, index or 0, watch)
        try:
            opened = partial(self._open, settings, trials, index, events)
            shared = retrying(opened, _DATABASE, patience_s=SHORT_PATIENCE_S)
            events.write("worker_started", id=shared.board.worker, pid=os.getpid())
            with ExitStack() as stack:
                if watch is None:  # nobody else shows how far it is
                    progress = stack.enter_context(Progress(self.run_folder.path.name, trials, shared.finished))
                    shared.events = EventLog(self.run_folder.events_path, index or 0, progress.show)
                reason = self._work(shared, trials, most)
            self._finish(shared, trials)
            shared.close()
        except Exception as error:
            logger.info("this worker cannot go on", exc_info=True)
            events.write("worker_ended", reason=None, error=str(error) or type(error).__name__)
            raise
        events.write("worker_ended", reason=reason, error=None)
        return reason

    def _work(self, shared: SharedStudy, trials: int, most: int | None = None) -> str | None:
        evaluate = self._task.evaluate
        if isinstance(evaluate, Evaluator):
            if type(evaluate).prepare is not Evaluator.prepare:
                with _one_at_a_time(self._evaluator_path):
                    evaluate.prepare(self._evaluator_path)
            if self._task.first_suggestions:
                with _one_at_a_time(self.run_folder.path):
                    shared.study.enqueue_promising(evaluate.suggestions, self._task.first_suggestions)
        if "latency_ms" in self._arguments["costs"] and not self._latency.ready:
            with _one_at_a_time(self.run_folder.path):
                self._latency(next(self._task.space.enumerate()))  # builds the table, or finds that of another worker
        worker = Worker(
            shared,
            evaluate,
            self._task.seed,
            keeps_weights=not isinstance(evaluate, Evaluator) or evaluate.trains_network,
            rungs=None if self._task.rungs is None else self._task.rungs(self.objectives),
        )
        return worker.run(trials, most)

    @property
    def _evaluator_path(self) -> Path:
        return self.run_folder.path / "evaluator"

    def _finish(self, shared: SharedStudy, trials: int) -> None:
        evaluate = self._task.evaluate
        if isinstance(evaluate, Evaluator) and shared.finished >= trials:
            evaluate.finish(self._evaluator_path)

    def _open(
        self,
        settings: Mapping[str, Any],
        trials: int,
        index: int | None = 0,
        events: EventLog | None = None,
    ) -> SharedStudy:
        """Return the run's study, of which this process is a worker."""
        run, workers = self.run_folder, self._workers
        database = open_study_db(run) if workers.storage is None else open_storage(workers.storage)
        storage: BaseStorage = database if workers.proxy is None else open_proxy(workers.proxy)
        board = Board(board_engine(database), run.path.name, trials)
        if events is not None:
            before = board.register()
            index = before if index is None else index
        others = [worker for worker in board.workers() if worker.id != board.worker]
        found = {DATA_FOUND: dict(self._task.data_found)} if self._task.data_found else {}
        self._check_storage(storage, database)
        # Before the study is opened, which would name what differs, but not how.
        check_manifest(storage, run.path.name, {**settings, **found}, alone=all(map(board.is_gone, others)))
        shared = SharedStudy(run, database, board, events or EventLog(run.events_path), self._details)
        shared.study = ArchitectureStudy(
            self._task.space,
            **self._arguments,
            storage=storage,
            study_name=run.path.name,
            worker=index or 0,
            on_trial_end=shared.keep,
            claims=board,
        )
        write_manifest(shared.study.study, {**settings, **found})
        return shared

    def _check_storage(self, storage: BaseStorage, database: RDBStorage) -> None:
        run = self.run_folder
        if (numbers := run.trial_numbers()) and run.path.name not in optuna.get_all_study_names(storage):
            raise ValueError(
                f"{run.path} holds {len(numbers)} trials, but there is no study {run.path.name!r} in "
                f"{hide_password(database.url)}; name the storage that the run was started with, or copy its study "
                "there first (docs/scaling.md)"
            )

    def _details(self, proposal: Proposal) -> Mapping[str, float]:
        assert proposal.architecture is not None
        return self._latency.details(proposal.architecture) if "latency_ms" in proposal.costs else {}

    def _complete_front(self) -> None:
        """Add to the trials of the front what a report shows of them: memory, and latencies measured at the end."""
        extra: dict[str, Callable[[Architecture], float]] = {"peak_memory_mb": self._peak_memory_mb}
        if "latency_ms" in self.objectives:
            extra |= self._latency.front_metrics()
        for trial in self.run_folder.front(self.objectives):
            missing = {name: cost(trial.architecture) for name, cost in extra.items() if name not in trial.metrics}
            if missing:
                self.run_folder.write_trial(dataclasses.replace(trial, metrics={**trial.metrics, **missing}))


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let processes that share a folder in one after the other: what the first prepares, the others find."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _end_with(parent: int) -> None:
    """End this process once its parent has: what it was at is taken up at the next start."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
