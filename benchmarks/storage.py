"""What a database costs a search: trials a second, and round trips a trial, with several workers.

    python benchmarks/storage.py --workers 1 4 16 --storage sqlite postgresql --json storage.json

Simulated workers, in a process each, take trials of a study as those of a search do (claim, ask, tell, finish) with an
evaluation that takes no time, so that what is measured is the overhead alone. ``postgresql`` needs a server: its URL
stands in DICENAS_STORAGE, and its database should be empty.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
import torch
from measure import machine, write

from dicenas.space import SpaceSpec
from dicenas.strategies import ArchitectureStudy
from dicenas.workers.board import Board, BudgetSpentError
from dicenas.workers.storage import board_engine, open_storage

SPACE = SpaceSpec(
    "shufflenetv2", ops=("separable", "dice", "skip"), stems=("small",), resolutions=(32,), num_classes=10
)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16], help="numbers of workers")
    parser.add_argument("--storage", nargs="+", choices=("sqlite", "postgresql"), default=["sqlite"])
    parser.add_argument("--trials", type=int, default=200, help="trials of each measurement")
    parser.add_argument("--sampler", default="nsga2")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    rows = []
    print("storage      workers  trials/s  ms a trial and worker  statements a trial")
    for kind in args.storage:
        for workers in args.workers:
            row = measure(kind, workers, args.trials, args.sampler)
            rows.append(row)
            print(
                f"{kind:<12} {workers:>7} {row['trials_per_s']:>9.1f} {row['overhead_ms']:>22.0f}"
                f" {row['statements_per_trial']:>19.1f}"
            )
    write(args.json, machine("cpu", torch.get_num_threads()), rows)


def measure(kind: str, workers: int, trials: int, sampler: str) -> dict[str, Any]:
    """Return what a study of so many trials costs with so many workers."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/study.db" if kind == "sqlite" else os.environ["DICENAS_STORAGE"]
        study = f"storage_{kind}_{workers}_{time.time_ns()}"
        open_study(url, study, trials, sampler, 0)
        context = multiprocessing.get_context("spawn")
        queue, ready, go = context.Queue(), context.Semaphore(0), context.Event()
        processes = [
            context.Process(target=work, args=(url, study, trials, sampler, index, ready, go, queue))
            for index in range(workers)
        ]
        for process in processes:
            process.start()
        for _ in processes:
            ready.acquire()
        start = time.perf_counter()
        go.set()
        results = [queue.get() for _ in processes]
        seconds = time.perf_counter() - start
        for process in processes:
            process.join()
    done = sum(result["done"] for result in results)
    return {
        "storage": kind,
        "workers": workers,
        "trials": done,
        "trials_per_s": done / seconds,
        "overhead_ms": 1000 * seconds * workers / done,
        "statements_per_trial": sum(result["statements"] for result in results) / done,
    }


def open_study(
    url: str, name: str, trials: int, sampler: str, worker: int
) -> tuple[ArchitectureStudy, Board, list[int]]:
    """Return a study, its claims, and a count of the statements that both send to the database."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(url)
    engine = board_engine(storage)
    statements = [0]

    def count(*_: object) -> None:
        statements[0] += 1

    for each in (storage.engine, engine):
        sa.event.listen(each, "before_cursor_execute", count)
    board = Board(engine, name, trials)
    study = ArchitectureStudy(
        SPACE, sampler, ("accuracy", "macs"), storage=storage, study_name=name, seed=0, worker=worker, claims=board
    )
    return study, board, statements


def work(url: str, name: str, trials: int, sampler: str, worker: int, ready: Any, go: Any, queue: Any) -> None:
    """Take trials until there are no more, as a worker does."""
    study, board, statements = open_study(url, name, trials, sampler, worker)
    board.register()
    ready.release()
    go.wait()
    statements[0] = done = 0
    while sum(board.counts().values()) < trials:
        try:
            proposal = study.ask()
        except BudgetSpentError:
            break
        study.tell(proposal, made_up(proposal.costs))
        board.finish(proposal.hash, proposal.number)
        done += 1
    queue.put({"done": done, "statements": statements[0]})


def made_up(costs: Mapping[str, float]) -> dict[str, float]:
    """Return an accuracy that takes no time."""
    return {"accuracy": 1 - 1e6 / costs["macs"]}


if __name__ == "__main__":
    main()
