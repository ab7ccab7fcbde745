"""A disk that is full: what was finished stays, and the search goes on once there is room."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import dicenas
from dicenas.architecture import Architecture
from dicenas.evaluation import Report
from dicenas.runs import RunFolder
from tests.reliability.made_up_search import SPACE, made_up
from tests.reliability.tally import Tally


def search(out: Path, evaluate: Any) -> Any:
    return dicenas.search(SPACE, evaluate, ("accuracy",), trials=60, sampler="random", name="run", out=out)


def test_a_full_disk_ends_the_search_clearly_and_loses_nothing(small_disk: Path, tally: Tally) -> None:
    asked: list[str] = []
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(900_000))

    def evaluate(architecture: Architecture, net: nn.Module, report: Report) -> Mapping[str, float]:
        asked.append(architecture.hash)
        return made_up(architecture)

    with pytest.raises((OSError, ValueError), match=r"(?i)no space left|disk is full|disk I/O"):
        search(small_disk, evaluate)
    run = RunFolder(small_disk / "run")
    finished = {trial.architecture.hash: trial.metrics["accuracy"] for trial in run.trials()}
    assert finished
    assert all(run.load_network(number) for number in run.trial_numbers())
    ballast.unlink()
    with pytest.raises((OSError, ValueError)):  # still no room for sixty networks
        search(small_disk, evaluate)
    after = {trial.architecture.hash: trial.metrics["accuracy"] for trial in run.trials()}
    lost = [architecture for architecture in finished if after.get(architecture) != finished[architecture]]
    again = [architecture for architecture in finished if asked.count(architecture) != 1]
    tally(lost=len(lost), again=len(again))
    assert len(after) > len(finished)
    assert (lost, again) == ([], [])
