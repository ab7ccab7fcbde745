"""How far a search is, read from its database while others work on it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from dicenas.pareto import Direction, pareto_front
from dicenas.runs import RunFolder
from dicenas.strategies.index import is_evaluation
from dicenas.workers.board import Board, WorkerRow
from dicenas.workers.manifest import read_manifest, search_names
from dicenas.workers.storage import board_engine, hide_password, open_storage

__all__ = ["Status", "read_statuses"]


@dataclass(frozen=True)
class Status:
    """How far a search is.

    Attributes:
        study: Its name.
        total: Trials that it is to have.
        complete: Trials with a result.
        failed: Trials that failed.
        running: Trials that are being evaluated.
        objectives: Direction of each objective.
        best: Values of the best trial in the first objective, by name, with its number as ``trial``; empty before
            there is one.
        per_hour: Trials an hour, over the time between the first start and the last end; ``None`` before there are two.
        workers: Who works on it, and whether it lives, as far as can be told from here.
    """

    study: str
    total: int
    complete: int
    failed: int
    running: int
    objectives: Mapping[str, Direction]
    best: Mapping[str, float]
    per_hour: float | None
    workers: tuple[tuple[WorkerRow, bool], ...]

    @property
    def hours_left(self) -> float | None:
        """Time that the missing trials take at this rate."""
        missing = max(0, self.total - self.complete - self.failed)
        return missing / self.per_hour if self.per_hour else None

    def __str__(self) -> str:
        lines = [
            f"{self.study}: {self.complete + self.failed} of {self.total} trials "
            f"({self.complete} complete, {self.failed} failed), {self.running} running"
        ]
        if self.best:
            values = ", ".join(f"{name} {self.best[name]:.4g}" for name in self.objectives)
            lines.append(f"  best:    trial {self.best['trial']:.0f}, {values}")
        if self.per_hour is not None:
            left = self.hours_left
            rest = "" if not left else f", {datetime.timedelta(seconds=round(left * 3600))} left"
            lines.append(f"  rate:    {self.per_hour:.4g} trials an hour{rest}")
        for worker, lives in self.workers:
            seen = datetime.datetime.fromtimestamp(worker.seen, datetime.UTC).isoformat(timespec="seconds")
            state = "at work" if lives else "gone"
            lines.append(f"  worker {worker.id}: process {worker.pid} on {worker.host}, {state}, last heard of {seen}")
        return "\n".join(lines)


def read_statuses(source: str, study: str | None = None) -> list[Status]:
    """Read how far searches are.

    Args:
        source: Run folder, or URL of a database.
        study: Name of one study of the database; all of its searches by default.

    Raises:
        ValueError: There is no such run or study.
    """
    if "://" in source:
        url, wanted = source, study
    else:
        run = RunFolder(source)
        if not run.storage_path.is_file():
            elsewhere = "; its study is in a database, ask that" if run.config_path.is_file() else ""
            raise ValueError(f"{run.path} holds no study{elsewhere}")
        url, wanted = run.storage_url, Path(source).resolve().name
    storage = open_storage(url, patience_s=0)
    names = [wanted] if wanted is not None else search_names(storage)
    if not names:
        raise ValueError(f"there is no search in {hide_password(url)}")
    return [_status(storage, url, name) for name in names]


def _status(storage: RDBStorage, url: str, name: str) -> Status:
    settings = read_manifest(storage, url, name, any_version=True)
    trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    ended = [trial for trial in trials if trial.state.is_finished() and is_evaluation(trial)]
    complete = [trial for trial in ended if trial.state == TrialState.COMPLETE]
    board = Board(board_engine(storage), name)
    workers = tuple((worker, not board.is_gone(worker)) for worker in board.workers() if not worker.ended)
    objectives: dict[str, Direction] = dict(settings["objectives"])
    return Status(
        study=name,
        total=int(settings["search"]["trials"]),
        complete=len(complete),
        failed=len(ended) - len(complete),
        running=board.counts().get("running", 0),
        objectives=objectives,
        best=_best(complete, objectives),
        per_hour=_per_hour(ended),
        workers=workers,
    )


def _best(complete: list[FrozenTrial], objectives: Mapping[str, Direction]) -> dict[str, Any]:
    points = [dict(zip(objectives, trial.values, strict=True)) for trial in complete]
    front = pareto_front(points, objectives)
    return {"trial": complete[front[0]].number, **points[front[0]]} if front else {}


def _per_hour(ended: list[FrozenTrial]) -> float | None:
    starts = [trial.datetime_start for trial in ended if trial.datetime_start is not None]
    ends = [trial.datetime_complete for trial in ended if trial.datetime_complete is not None]
    if len(ended) < 2 or not starts or not ends:
        return None
    seconds = (max(ends) - min(starts)).total_seconds()
    return 3600 * len(ended) / seconds if seconds > 0 else None
