"""Workers in processes of their own: started, watched, ended where they break a limit, and started again."""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import subprocess
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dicenas.events import Event, read_events
from dicenas.workers.limits import Limits, memory_mb
from dicenas.workers.shared import SharedStudy
from dicenas.workers.storage import PATIENCE_S, StorageLostError, retrying

__all__ = ["Child", "Supervisor", "WorkerError", "forked", "spawned", "telling"]

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.2
_GRACE_S = 5.0
# A worker that dies so often without a trial in between has another trouble than its trials.
_MOST_FALSE_STARTS = 3


class WorkerError(ValueError):
    """A worker could not work; the message is its own."""


class Child(Protocol):
    """A process that was started."""

    pid: int

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; ``None`` while it runs."""


class _Forked:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def poll(self) -> int | None:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status


def forked(work: Callable[[int], object]) -> _Forked:
    """Start a process that does some work on a copy of this one; for functions that no other process could find.

    The work is done in a thread of its own, since pools of threads that torch had before do not live on in a copy.

    Args:
        work: Called with the process number of this process.
    """
    parent = os.getpid()
    with warnings.catch_warnings():
        # Python warns of other threads: they are those of progress bars and pools, which the copy does not use.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return _Forked(pid)
    status = 1
    try:
        os.setsid()  # Ctrl-C is for who started this process, and decides what becomes of its trial
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        ended = threading.Event()

        threading.excepthook = lambda _: None  # the log of the run has it, and who watches was told

        def body() -> None:
            work(parent)
            ended.set()

        thread = threading.Thread(target=body, name="worker")
        thread.start()
        thread.join()
        status = 0 if ended.is_set() else 1
    finally:
        os._exit(status)


def spawned(
    command: list[str], descriptor: int, environment: Mapping[str, str], output: Path
) -> subprocess.Popen[bytes]:
    """Start a process by its command line; Ctrl-C does not reach it.

    Args:
        command: The command line.
        descriptor: File descriptor of this process that the new one has too.
        environment: Variables beside those of this process.
        output: File that what it prints is appended to.
    """
    with output.open("ab") as file:
        return subprocess.Popen(
            command,
            pass_fds=[descriptor],
            env={**os.environ, **environment},
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )


def telling(descriptor: int) -> Callable[[Event], None]:
    """Return what sends events to the process that watches; without that process this one ends."""

    def tell(event: Event) -> None:
        try:
            os.write(descriptor, (json.dumps(dict(event)) + "\n").encode())
        except BrokenPipeError:
            os._exit(1)  # killed with the one that started it: the trial is taken up at the next start

    return tell


@dataclass
class _Watched:
    """A worker as it is watched: its process, its pipe, what it is at."""

    index: int
    child: Child
    pipe: int
    buffer: bytes = b""
    board_worker: int | None = None
    trial: int | None = None
    since: float = 0.0
    error: str | None = None
    trials: int = 0
    over: tuple[int, str] | None = None


class Supervisor:
    """Runs workers in processes until the study has its trials.

    One that is killed, or ends for its limits, is started again. One that dies again and again before it has a trial,
    as where its device is broken, is given up; the others go on without it.

    Args:
        shared: The search.
        start: Starts a worker: called with its place, from 0, and the file descriptor that it tells its events to.
        workers: How many.
        limits: What an evaluation may take.
        show: Takes the events of all workers.
    """

    def __init__(
        self,
        shared: SharedStudy,
        start: Callable[[int, int], Child],
        workers: int,
        limits: Limits,
        show: Callable[[Event], None],
    ) -> None:
        self._shared = shared
        self._start = start
        self._count = workers
        self._limits = limits
        self._show = show
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, _Watched] = {}
        self._done = False  # as soon as a worker says so
        self._false_starts: Counter[int] = Counter()  # by place, since its last trial
        self.stop_reason: str | None = None

    def run(self) -> None:
        """Return when all workers have ended.

        Raises:
            WorkerError: A worker could not work, and said why, or all were given up.
        """
        try:
            for index in range(self._count):
                self._launch(index)
            while self._workers:
                self._listen(_LOOK_EVERY_S)
                for watched in list(self._workers.values()):
                    self._look_at(watched)
        finally:
            self._end_all()
            self._selector.close()

    def _launch(self, index: int) -> None:
        reading, writing = os.pipe()
        try:
            child = self._start(index, writing)
        finally:
            os.close(writing)
        os.set_blocking(reading, False)
        self._workers[index] = _Watched(index, child, reading)
        self._selector.register(reading, selectors.EVENT_READ, self._workers[index])

    def _listen(self, timeout_s: float) -> None:
        for key, _ in self._selector.select(timeout_s):
            self._read(key.data)

    def _read(self, watched: _Watched) -> bool:
        try:
            data = os.read(watched.pipe, 65536)
        except BlockingIOError:  # a process that the worker started may hold the other end open
            return False
        *lines, watched.buffer = (watched.buffer + data).split(b"\n")
        for event in read_events(b"\n".join(lines)):
            self._take(watched, event)
        if not data and watched.pipe in self._selector.get_map():
            self._selector.unregister(watched.pipe)
        return bool(data)

    def _take(self, watched: _Watched, event: Event) -> None:
        what = event["event"]
        if what == "worker_started":
            watched.board_worker = event["id"]
        elif what == "trial_started":
            watched.trial, watched.since = event["trial"], time.monotonic()
        elif what in ("trial_ended", "trial_interrupted"):
            watched.trial = None
            watched.trials += 1
        elif what == "worker_ended":
            watched.error = event.get("error")
            self.stop_reason = event.get("reason") or self.stop_reason
        self._show(event)

    def _look_at(self, watched: _Watched) -> None:
        status = watched.child.poll()
        if status is None:
            self._hold_to_limits(watched)
            return
        while self._read(watched):
            pass
        self._forget(watched)
        if watched.error is not None:
            raise WorkerError(watched.error)
        if status == 0:
            self._done = True
            return
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        if status == -signal.SIGKILL and watched.over is None:
            how += ", as the system does where memory runs out"
        reason = how if watched.over is None else watched.over[1]
        logger.warning("worker %d: %s", watched.index, reason)
        self._shared.events.write("worker_lost", lost=watched.index, reason=reason)
        self._resolve(watched, how)
        if watched.trials or watched.trial is not None:
            self._false_starts[watched.index] = 0
        else:
            self._false_starts[watched.index] += 1
        if self._false_starts[watched.index] < _MOST_FALSE_STARTS:
            self._launch(watched.index)
        elif not self._workers and not self._done:
            raise WorkerError(f"workers end before they have a trial: the last one {how}")
        else:
            logger.warning(
                "worker %d ended %d times before it had a trial, and is not started again; the others go on",
                watched.index,
                _MOST_FALSE_STARTS,
            )

    def _hold_to_limits(self, watched: _Watched) -> None:
        if watched.trial is None or watched.over is not None:
            return
        reason = self._limits.broken(time.monotonic() - watched.since, memory_mb(watched.child.pid))
        if reason is not None:
            watched.over = watched.trial, reason
            _kill(watched.child, signal.SIGKILL)

    def _resolve(self, watched: _Watched, died: str | None = None, *, patience_s: float = PATIENCE_S) -> None:
        """Decide what becomes of what a worker that ended was evaluating."""

        def resolve() -> None:
            board = self._shared.board
            for claim in board.running():
                if claim.worker == watched.board_worker and board.take_over(claim):
                    # It may have ended that trial and begun another just before it was killed.
                    over, reason = watched.over or (None, None)
                    failed = reason if over == claim.trial else None
                    self._shared.resolve(claim, died=None if watched.over else died, failed=failed)
            self._shared.resolve_own()  # what a lost connection left half done

        retrying(resolve, "the database of the study", patience_s=patience_s)

    def _forget(self, watched: _Watched) -> None:
        del self._workers[watched.index]
        if watched.pipe in self._selector.get_map():
            self._selector.unregister(watched.pipe)
        os.close(watched.pipe)

    def _end_all(self) -> None:
        """End the workers that still run, and let go of their trials."""
        for watched in self._workers.values():
            _kill(watched.child, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        ended = list(self._workers.values())
        for watched in ended:
            while watched.child.poll() is None:
                if time.monotonic() > deadline:
                    _kill(watched.child, signal.SIGKILL)
                time.sleep(0.02)
            while self._read(watched):
                pass
            self._forget(watched)
        try:
            for watched in ended:
                self._resolve(watched, patience_s=_GRACE_S)
        except StorageLostError as error:
            logger.warning("trials that were cut off are taken up at the next start: %s", error)


def _kill(child: Child, number: signal.Signals) -> None:
    """Send a signal to a worker and to what it started."""
    if child.poll() is None:
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:  # so young that it has no group of its own yet
            os.kill(child.pid, number)
