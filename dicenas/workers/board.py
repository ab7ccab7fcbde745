"""Who works on what: workers and what they claimed, in tables of our own beside Optuna's, in the same database."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from dicenas.workers.storage import making_tables

__all__ = ["Board", "BudgetSpentError", "Claim", "WorkerRow"]

# Longer names than Optuna's own studies may have are not needed; all keys together fit into an index of MySQL.
_NAME = sa.String(512)

_TABLES = sa.MetaData()
_STUDIES = sa.Table(
    "dicenas_studies",
    _TABLES,
    sa.Column("study", _NAME, primary_key=True),
    sa.Column("changes", sa.Integer, nullable=False),
)
_WORKERS = sa.Table(
    "dicenas_workers",
    _TABLES,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("study", _NAME, nullable=False, index=True),
    sa.Column("machine", sa.String(256), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("process_started", sa.Float(53), nullable=False),
    sa.Column("beats", sa.Integer, nullable=False),
    sa.Column("seen", sa.Float(53), nullable=False),
    sa.Column("ended", sa.Boolean, nullable=False),
)
_CLAIMS = sa.Table(
    "dicenas_claims",
    _TABLES,
    sa.Column("study", _NAME, primary_key=True),
    sa.Column("architecture", sa.String(64), primary_key=True),
    sa.Column("trial", sa.Integer, nullable=False),
    sa.Column("worker", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # running, finished, free
    sa.Column("deaths", sa.Integer, nullable=False),
)
_REPORTS = sa.Table(
    "dicenas_reports",
    _TABLES,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("study", _NAME, nullable=False, index=True),
    sa.Column("trial", sa.Integer, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("metrics", sa.Text, nullable=False),
)

# Workers on other machines are gone when they were silent for so long, counted by the clock of who looks.
BEAT_EVERY_S = 10.0
SILENT_FOR_S = 60.0
# Who could not tell of itself for so long has no database, and could not hear of others either.
_DEAF_AFTER_S = 30.0


class BudgetSpentError(RuntimeError):
    """All trials of the study are finished or being evaluated.

    Attributes:
        number: The trial that there was no room for.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"no room for trial {number}: all trials of the study are finished or being evaluated")
        self.number = number


@dataclass(frozen=True)
class Claim:
    """An architecture that a worker has taken.

    Attributes:
        architecture: Hash of the architecture.
        trial: Number of the trial.
        worker: Who evaluates it.
        deaths: How many processes ended while they evaluated it.
    """

    architecture: str
    trial: int
    worker: int
    deaths: int


@dataclass(frozen=True)
class WorkerRow:
    """A worker as the database knows it.

    Attributes:
        id: Its number.
        machine: Where it runs.
        pid: Number of its process there.
        process_started: When the process started, by that machine.
        beats: Grows while it lives.
        seen: When it was last heard of, in seconds since 1970 by its own clock.
        ended: Whether it said that it ended.
    """

    id: int
    machine: str
    pid: int
    process_started: float
    beats: int
    seen: float
    ended: bool

    @property
    def host(self) -> str:
        """Name of the machine."""
        return self.machine.split(" ")[0]


class Board:
    """The claims of one study.

    A trial is evaluated by the worker that claimed its architecture, in a transaction that only one worker is in at a
    time: no architecture has two claims, and no more are claimed than the study may have trials.

    Args:
        engine: The database; tables that are missing are made.
        study: Name of the study.
        trials: Trials of the whole study; ``None`` for no limit.
    """

    def __init__(self, engine: sa.Engine, study: str, trials: int | None = None) -> None:
        self._engine = engine
        self._study = study
        self._trials = trials
        self.worker: int | None = None
        self._silence: dict[int, tuple[int, float]] = {}
        self._heard = 0.0  # when this worker's last sign of life was written
        making_tables(lambda: _TABLES.create_all(engine))
        try:
            with engine.begin() as connection:
                connection.execute(_STUDIES.insert().values(study=study, changes=0))
        except IntegrityError:
            pass  # there already

    @contextmanager
    def _alone(self) -> Iterator[sa.Connection]:
        """A transaction that no other worker of the study is in: whoever writes this row first goes first."""
        with self._engine.begin() as connection:
            mine = _STUDIES.c.study == self._study
            connection.execute(_STUDIES.update().where(mine).values(changes=_STUDIES.c.changes + 1))
            yield connection

    def disconnect(self) -> None:
        """Close the connections that are not in use, before this process is copied."""
        self._engine.dispose()

    # Workers

    def register(self) -> int:
        """Enter this process as a worker; returns how many registered before it."""
        process = psutil.Process()
        with self._alone() as connection:
            before = connection.scalar(
                sa.select(sa.func.count()).select_from(_WORKERS).where(_WORKERS.c.study == self._study)
            )
            result = connection.execute(
                _WORKERS.insert().values(
                    study=self._study,
                    machine=this_machine(),
                    pid=process.pid,
                    process_started=process.create_time(),
                    beats=0,
                    seen=time.time(),
                    ended=False,
                )
            )
        (self.worker,) = result.inserted_primary_key or (None,)
        self._heard = time.monotonic()
        return int(before or 0)

    def beat(self) -> None:
        """Say that this worker lives."""
        self._set_worker(beats=_WORKERS.c.beats + 1, seen=time.time())
        if self._is_deaf():  # until now: the others have as long again as at the start
            self._silence.clear()
        self._heard = time.monotonic()

    def _is_deaf(self) -> bool:
        return time.monotonic() - self._heard > _DEAF_AFTER_S

    def leave(self) -> None:
        """Say that this worker ended."""
        self._set_worker(ended=True, seen=time.time())

    def _set_worker(self, **values: object) -> None:
        with self._engine.begin() as connection:
            connection.execute(_WORKERS.update().where(_WORKERS.c.id == self.worker).values(**values))

    def workers(self) -> list[WorkerRow]:
        """Return all workers that ever registered."""
        columns = [column for column in _WORKERS.c if column.name != "study"]
        with self._engine.connect() as connection:
            rows = connection.execute(
                sa.select(*columns).where(_WORKERS.c.study == self._study).order_by(_WORKERS.c.id)
            )
            return [WorkerRow(**row._mapping) for row in rows]

    def is_gone(self, worker: WorkerRow) -> bool:
        """Return whether a worker ended, as far as this process can know.

        On this machine its process is looked for. On another it is gone when it was silent for a minute of watching;
        the time without a database does not count.
        """
        if worker.ended:
            return True
        if worker.machine == this_machine():
            return not _runs(worker.pid, worker.process_started)
        beats, since = self._silence.get(worker.id, (-1, 0.0))
        if beats != worker.beats:
            self._silence[worker.id] = worker.beats, time.monotonic()
            return False
        return time.monotonic() - since > SILENT_FOR_S and not self._is_deaf()

    # Claims

    def claim(self, architecture: str, trial: int) -> int | None:
        """Claim an architecture for a trial.

        Args:
            architecture: Its hash.
            trial: Number of the trial.

        Returns:
            ``None`` where it is this worker's now, else the number of the trial that has it.

        Raises:
            BudgetSpentError: The study may have no further trial.
        """
        with self._alone() as connection:
            key = self._key(architecture)
            row = connection.execute(sa.select(_CLAIMS).where(key)).first()
            if row is not None and row.state != "free":
                return None if (row.trial, row.worker) == (trial, self.worker) else int(row.trial)
            if self._trials is not None and self._taken(connection) >= self._trials:
                raise BudgetSpentError(trial)
            claimed = {"trial": trial, "worker": self.worker, "state": "running"}
            if row is None:
                values = {"study": self._study, "architecture": architecture, "deaths": 0, **claimed}
                connection.execute(_CLAIMS.insert().values(values))
            else:
                connection.execute(_CLAIMS.update().where(key).values(claimed))
        return None

    def release(self, architecture: str, *, died: bool = False) -> None:
        """Give up a claim: the architecture may be claimed again, or is infeasible.

        Args:
            architecture: Its hash.
            died: Whether the process that had it died over it.
        """
        with self._alone() as connection:
            deaths = _CLAIMS.c.deaths + int(died)
            unfinished = self._key(architecture) & (_CLAIMS.c.state == "running")
            connection.execute(_CLAIMS.update().where(unfinished).values(state="free", deaths=deaths))

    def finish(self, architecture: str, trial: int) -> None:
        """Record that a trial has its result; also for one that was evaluated before there were claims."""
        with self._alone() as connection:
            key = self._key(architecture)
            done = {"state": "finished", "trial": trial}
            if not connection.execute(_CLAIMS.update().where(key).values(done)).rowcount:
                values = {"study": self._study, "architecture": architecture, "worker": self.worker or 0, "deaths": 0}
                connection.execute(_CLAIMS.insert().values({**values, **done}))

    def take_over(self, claim: Claim) -> bool:
        """Take the claim of a worker that is gone, to decide what becomes of it; only one worker gets it."""
        with self._alone() as connection:
            theirs = self._key(claim.architecture) & (_CLAIMS.c.worker == claim.worker) & (_CLAIMS.c.state == "running")
            return connection.execute(_CLAIMS.update().where(theirs).values(worker=self.worker)).rowcount == 1

    def running(self) -> list[Claim]:
        """Return the claims that have no result yet."""
        chosen = (_CLAIMS.c.study == self._study) & (_CLAIMS.c.state == "running")
        columns = (_CLAIMS.c.architecture, _CLAIMS.c.trial, _CLAIMS.c.worker, _CLAIMS.c.deaths)
        with self._engine.connect() as connection:
            return [Claim(**row._mapping) for row in connection.execute(sa.select(*columns).where(chosen))]

    def finished(self) -> set[str]:
        """Return the hashes of the architectures that have their result."""
        chosen = (_CLAIMS.c.study == self._study) & (_CLAIMS.c.state == "finished")
        with self._engine.connect() as connection:
            return set(connection.scalars(sa.select(_CLAIMS.c.architecture).where(chosen)))

    def counts(self) -> Mapping[str, int]:
        """Return how many claims are in each state."""
        query = sa.select(_CLAIMS.c.state, sa.func.count()).where(_CLAIMS.c.study == self._study)
        with self._engine.connect() as connection:
            return {state: int(count) for state, count in connection.execute(query.group_by(_CLAIMS.c.state))}

    def _taken(self, connection: sa.Connection) -> int:
        chosen = (_CLAIMS.c.study == self._study) & (_CLAIMS.c.state != "free")
        return int(connection.scalar(sa.select(sa.func.count()).select_from(_CLAIMS).where(chosen)) or 0)

    def _key(self, architecture: str) -> sa.ColumnElement[bool]:
        return (_CLAIMS.c.study == self._study) & (_CLAIMS.c.architecture == architecture)

    # What is reported at rungs

    def report(self, trial: int, step: int, metrics: Mapping[str, float]) -> None:
        """Keep what a trial reported, for the rungs of all workers and of later sessions."""
        with self._engine.begin() as connection:
            values = {"study": self._study, "trial": trial, "step": step, "metrics": json.dumps(dict(metrics))}
            connection.execute(_REPORTS.insert().values(values))

    def forget(self, trial: int) -> None:
        """Drop what a trial reported that was interrupted, and is going to be evaluated again."""
        with self._engine.begin() as connection:
            theirs = (_REPORTS.c.study == self._study) & (_REPORTS.c.trial == trial)
            connection.execute(_REPORTS.delete().where(theirs))

    def reports(self) -> list[tuple[int, int, dict[str, float]]]:
        """Return what was reported at rungs, as ``(trial, step, metrics)`` in the order of the reports."""
        with self._engine.connect() as connection:
            chosen = sa.select(_REPORTS).where(_REPORTS.c.study == self._study).order_by(_REPORTS.c.id)
            return [(row.trial, row.step, json.loads(row.metrics)) for row in connection.execute(chosen)]


def this_machine() -> str:
    """Return a name for what shares this process's numbering of processes: the host, or the container."""
    space = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {space.readlink() if space.is_symlink() else ''}".strip()


def _runs(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 10 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
