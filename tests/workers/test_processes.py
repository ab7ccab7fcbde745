"""Evaluations in processes of their own: what hangs, eats memory, dies or is interrupted, and several side by side."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from torch import nn

from dicenas.architecture import Architecture
from dicenas.evaluation import Report
from dicenas.events import Event, read_events
from dicenas.runs import RunFolder
from dicenas.search import SearchResult, search
from dicenas.workers import WorkerError
from tests.reliability.made_up_search import SPACE, MadeUp, made_up


def run(out: Path, evaluate: object, **arguments: object) -> SearchResult:
    chosen = {"trials": 4, "sampler": "random", "name": "run", "out": out, **arguments}
    return search(SPACE, evaluate, ("accuracy", "macs"), **chosen)  # type: ignore[arg-type]


def events(run: RunFolder) -> list[Event]:
    return list(read_events(run.events_path.read_bytes()))


def place(out: Path) -> int:
    """How many evaluations began before this one, over all processes."""
    with (out / "asked.txt").open("a+") as file:
        file.write("x")
        file.flush()
        return file.tell() - 1


def test_what_hangs_or_eats_memory_or_dies_fails_and_the_search_goes_on(tmp_path: Path) -> None:
    def evaluate(architecture: Architecture, net: nn.Module, report: Report) -> Mapping[str, float]:
        match place(tmp_path):
            case 0:
                signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))  # as a loop in C that nothing interrupts
                time.sleep(1000)
            case 1:
                held = []
                while True:
                    held.append(b"x" * 20_000_000)
                    time.sleep(0.01)
            case 2 | 3 | 4:  # the same architecture, proposed again each time
                os.kill(os.getpid(), signal.SIGKILL)  # as the system does where memory runs out
            case 5:
                raise SystemExit("out of ideas")
        return made_up(architecture)

    result = run(tmp_path, evaluate, trials=5, time_limit_s=30.0, memory_limit_mb=1500)
    errors = [trial.error for trial in result.run.trials()]
    assert errors[0] == "time limit: not done after 30 s"
    assert str(errors[1]).startswith("memory limit: its process holds 1,")
    assert errors[2:] == [
        "3 processes died while they evaluated it (the last one was killed by SIGKILL, as the system does where "
        "memory runs out)",
        "SystemExit: out of ideas",
        None,
    ]
    assert "was killed by SIGKILL" in result.run.log_path.read_text()
    environment = json.loads(result.run.environment_path.read_text())
    assert environment["finished"]


def test_workers_share_the_trials(tmp_path: Path) -> None:
    def evaluate(architecture: Architecture, net: nn.Module, report: Report) -> Mapping[str, float]:
        report(1, {"accuracy": 0.1})
        time.sleep(0.3)
        return made_up(architecture)

    result = run(tmp_path, evaluate, workers=2, trials=8)
    trials = result.run.trials()
    assert len({trial.architecture.hash for trial in trials}) == len(trials) == result.new_trials == 8
    ended = [event for event in events(result.run) if event["event"] == "trial_ended"]
    assert {event["worker"] for event in ended} == {0, 1}
    assert all(result.run.load_network(trial.number) for trial in trials)
    assert run(tmp_path, evaluate, workers=2, trials=8).new_trials == 0


def test_rungs_compare_the_trials_of_all_workers_and_sessions(tmp_path: Path) -> None:
    def evaluate(architecture: Architecture, net: nn.Module, report: Report) -> Mapping[str, float]:
        accuracy = 1.0 - place(tmp_path) / 100  # each is worse than those before
        for epoch in (1, 2, 3):
            report(epoch, {"accuracy": accuracy})
        return {"accuracy": accuracy, "epochs": 3}

    arguments = {"rungs": (1,), "reduction_factor": 2, "objectives": ("accuracy",)}
    first = search(SPACE, evaluate, trials=3, sampler="random", name="run", out=tmp_path, workers=2, **arguments)  # type: ignore[arg-type]
    second = search(SPACE, evaluate, trials=6, sampler="random", name="run", out=tmp_path, **arguments)  # type: ignore[arg-type]
    best = max(second.run.trials(), key=lambda trial: trial.metrics["accuracy"])
    assert (first.new_trials, second.new_trials) == (3, 3)
    assert best.metrics["epochs"] == 3
    new = [trial for trial in second.run.trials() if trial.metrics["accuracy"] < 0.98]
    assert [(trial.state, trial.metrics["epochs"]) for trial in new] == [("complete", 1)] * 3


class Deadly(MadeUp):
    """Kills all processes that prepare it but the first ones."""

    def __init__(self, folder: Path, lives: int) -> None:
        self._folder = folder
        self._lives = lives

    def prepare(self, folder: Path) -> None:
        if place(self._folder) >= self._lives:
            os.kill(os.getpid(), signal.SIGKILL)

    def __call__(self, architecture: Architecture, net: nn.Module, report: Report) -> Mapping[str, float]:
        while (self._folder / "asked.txt").stat().st_size < self._lives + 3:
            time.sleep(0.02)
        return made_up(architecture)


def test_a_worker_that_dies_before_its_trials_is_given_up_and_the_others_go_on(tmp_path: Path) -> None:
    result = run(tmp_path, Deadly(tmp_path, lives=1), workers=2)
    assert len(result.run.trials()) == 4
    assert "ended 3 times before it had a trial, and is not started again" in result.run.log_path.read_text()
    with pytest.raises(WorkerError, match="workers end before they have a trial: the last one was killed by SIGKILL"):
        run(tmp_path / "none", Deadly(tmp_path, lives=0), workers=2)


def test_workers_that_cannot_work_end_the_search_with_their_own_words(tmp_path: Path) -> None:
    def in_the_way(architecture: Architecture, net: nn.Module, report: Report) -> Mapping[str, float]:
        (tmp_path / "run" / "trials").write_text("in the way")
        return made_up(architecture)

    with pytest.raises(WorkerError, match=r"File exists|Not a directory"):
        run(tmp_path, in_the_way, workers=2)
