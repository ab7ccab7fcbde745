"""Trainings of a search that were cut off: the next attempt goes on, or begins anew where it cannot."""

from __future__ import annotations

import errno
import logging
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dicenas.architecture import Architecture
from dicenas.evaluation import (
    Data,
    DataConfig,
    Report,
    StopEvaluation,
    TrainConfig,
    TrainEvaluator,
    half_trained,
    load_data,
)
from dicenas.evaluation.half_trained import HalfTrained
from dicenas.nets import Network, build
from dicenas.runs import RunFolder, TrialRecord
from dicenas.search import search
from dicenas.space import SpaceSpec
from dicenas.workers.network import LazyNetwork

# With what has a random state: dropout, shifts and mirrors (the images are treated as if they were no digits).
ARCHITECTURE = Architecture(
    "shufflenetv2",
    0.1,
    (("separable_k3", "dice_k3"), ("separable_k3",), ("separable_k3",)),
    "small",
    (12, 12),
    num_classes=10,
)
RECIPE = TrainConfig(epochs=4, batch=20, learning_rate=0.1)

Reported = list[tuple[int, Mapping[str, float]]]


class Killed(KeyboardInterrupt):
    """Stands for what ends a process at once."""


@pytest.fixture(scope="module")
def data() -> Data:
    digits = load_data(DataConfig(image_size=12, train_limit=80, val_limit=40))
    return Data(digits.train, digits.val, digits.class_names, digits.mean, digits.std, augmentable=True)


def fresh(seed: int = 0) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(ARCHITECTURE)


def evaluator(data: Data, folder: Path, recipe: TrainConfig = RECIPE, seconds: float = 0.0) -> TrainEvaluator:
    made = TrainEvaluator(data, recipe, checkpoint_seconds=seconds)
    made.prepare(folder / "evaluator")
    return made


def checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def cut_off(data: Data, folder: Path, epoch: int, recipe: TrainConfig = RECIPE) -> Path:
    """An attempt that ends while an epoch is reported; returns its checkpoint, of the epoch before."""

    def report(step: int, metrics: Mapping[str, float]) -> None:
        if step == epoch:
            raise Killed

    with pytest.raises(Killed):
        evaluator(data, folder, recipe)(ARCHITECTURE, fresh(), report)
    (path,) = checkpoints(folder)
    return path


def evaluated(
    data: Data, folder: Path, net: Network, recipe: TrainConfig = RECIPE
) -> tuple[dict[str, float], Reported]:
    reported: Reported = []
    metrics = dict(evaluator(data, folder, recipe)(ARCHITECTURE, net, lambda *given: reported.append(given)))
    assert metrics.pop("train_seconds") > 0
    return metrics, reported


def weights(net: Network) -> list[torch.Tensor]:
    return list(net.state_dict().values())


@dataclass(frozen=True)
class Whole:
    """A training that nothing cut off."""

    result: tuple[dict[str, float], Reported]
    weights: list[torch.Tensor]


@pytest.fixture(scope="module")
def whole(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    net = fresh()
    return Whole(evaluated(data, tmp_path_factory.mktemp("whole"), net), weights(net))


def test_what_was_cut_off_ends_as_what_was_not(
    data: Data, whole: Whole, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert [step for step, _ in whole.result[1]] == [1, 2, 3, 4]
    cut_off(data, tmp_path / "cut", 3)
    cut_off(data, tmp_path / "cut", 4)
    resumed = fresh(1)  # its weights are those of the checkpoint
    assert evaluated(data, tmp_path / "cut", resumed) == whole.result
    assert "goes on behind epoch 2 of 4" in caplog.text
    assert "goes on behind epoch 3 of 4" in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed), whole.weights, strict=True))
    assert checkpoints(tmp_path) == []


def test_short_epochs_write_nothing(data: Data, tmp_path: Path) -> None:
    def report(step: int, metrics: Mapping[str, float]) -> None:
        assert checkpoints(tmp_path) == []

    evaluator(data, tmp_path, seconds=3600)(ARCHITECTURE, fresh(), report)


def test_torn_checkpoints_are_not_read_as_good(
    data: Data, whole: Whole, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = cut_off(data, tmp_path / "run", 2)
    kept = path.read_bytes()
    training = evaluator(data, tmp_path / "run")._training(ARCHITECTURE, data)
    assert HalfTrained(path, lambda: training).state is not None
    flipped = kept[:-100] + bytes([kept[-100] ^ 1]) + kept[-99:]
    for torn in [b"", b"torn", flipped, *(kept[:length] for length in range(0, len(kept), 4096)), kept[:-1]]:
        path.write_bytes(torn)
        caplog.clear()
        assert HalfTrained(path, lambda: training).state is None
        assert "trained from the start" in caplog.text
        assert not path.exists()
    # As a killed process leaves it: what was being written towards the file.
    unfinished = path.with_name(f".{path.name}.{'0f' * 8}")
    unfinished.write_bytes(kept[:1000])
    path.write_bytes(kept[:-5])
    assert evaluated(data, tmp_path / "run", fresh()) == whole.result
    assert checkpoints(tmp_path) == []


def test_checkpoints_of_other_trainings_are_passed_over(
    data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = TrainConfig(epochs=2, batch=20, learning_rate=0.1)
    expected = evaluated(data, tmp_path / "whole", fresh(), short)
    path = cut_off(data, tmp_path / "run", 2)
    kept = path.read_bytes()
    assert evaluated(data, tmp_path / "run", fresh(), short) == expected
    assert "recipe.epochs: 4 there, 2 asked for" in caplog.text

    other = ARCHITECTURE.replace(width=0.2)
    foreign = path.with_name(f"{other.hash}.pt")
    foreign.write_bytes(kept)
    evaluator(data, tmp_path / "run", short)(other, build(other), lambda *_: None)
    assert "architecture.width: 0.1 there, 0.2 asked for" in caplog.text

    path.write_bytes(kept)
    fewer = load_data(DataConfig(image_size=12, train_limit=70, val_limit=40))
    evaluator(fewer, tmp_path / "run")(ARCHITECTURE, fresh(), lambda *_: None)
    assert "data: " in caplog.text
    assert checkpoints(tmp_path) == []


def test_a_rung_may_stop_what_was_reported_before(data: Data, tmp_path: Path) -> None:
    """What is recorded last is the epoch that the weights are of."""
    cut_off(data, tmp_path, 4)
    reported: list[int] = []

    def report(step: int, metrics: Mapping[str, float]) -> None:
        reported.append(step)
        if step == 1:
            raise StopEvaluation("not among the best by now")

    with pytest.raises(StopEvaluation, match="by now"):
        evaluator(data, tmp_path)(ARCHITECTURE, fresh(), report)
    assert reported == [1, 2, 3]
    assert checkpoints(tmp_path) == []


def test_what_a_training_inherited_is_not_inherited_again(data: Data, tmp_path: Path) -> None:
    def heir(folder: Path, parents: RunFolder, report: Any) -> Mapping[str, float]:
        made = TrainEvaluator(data, RECIPE, parents=parents, checkpoint_seconds=0)
        made.prepare(folder / "evaluator")
        return made(ARCHITECTURE, fresh(), report)

    parents = RunFolder(tmp_path / "parents")
    parent = ARCHITECTURE.replace(stages=(("separable_k3", "separable_k3"), *ARCHITECTURE.stages[1:]))
    parents.write_weights(3, build(parent).state_dict())
    parents.write_trial(TrialRecord(3, parent, "complete", {"accuracy": 0.5}))
    expected = heir(tmp_path / "whole", parents, lambda *_: None)
    assert 0 < expected["inherited"] < 1

    def report(step: int, metrics: Mapping[str, float]) -> None:
        if step == 3:
            raise Killed

    with pytest.raises(Killed):
        heir(tmp_path / "cut", parents, report)
    metrics = heir(tmp_path / "cut", RunFolder(tmp_path / "nobody"), lambda *_: None)
    assert {**metrics, "train_seconds": 0} == {**expected, "train_seconds": 0}


def test_a_training_that_fails_leaves_no_checkpoint(data: Data, tmp_path: Path) -> None:
    def report(step: int, metrics: Mapping[str, float]) -> None:
        if step == 2:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        evaluator(data, tmp_path)(ARCHITECTURE, fresh(), report)
    assert checkpoints(tmp_path) == []


def test_a_checkpoint_that_cannot_be_written_does_not_end_a_training(
    data: Data, whole: Whole, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(half_trained, "write_checkpoint", full)
    assert evaluated(data, tmp_path, fresh()) == whole.result
    assert "no checkpoint of a training was written: [Errno 28]" in caplog.text


class Dying(TrainEvaluator):
    """Is killed some times, while the third epoch is reported."""

    def __init__(self, data: Data, marks: Path, deaths: int) -> None:
        super().__init__(data, RECIPE, checkpoint_seconds=0)
        self.marks, self.deaths = marks, deaths

    def __call__(self, architecture: Architecture, net: nn.Module, report: Report) -> Mapping[str, float]:
        def watched(step: int, metrics: Mapping[str, float]) -> None:
            if step == 3 and len(died := list(self.marks.iterdir())) < self.deaths:
                (self.marks / str(len(died))).touch()
                assert checkpoints(self.marks.parent / "search" / "evaluator")
                os.kill(os.getpid(), signal.SIGKILL)
            report(step, metrics)

        return super().__call__(architecture, net, watched)


def killed_search(data: Data, folder: Path, deaths: int) -> RunFolder:
    marks = folder / "marks"
    marks.mkdir()
    return search(
        SpaceSpec("shufflenetv2", widths=(0.1,), stems=("small",), resolutions=(12,), num_classes=10),
        Dying(data, marks, deaths),
        ("accuracy", "macs"),
        trials=1,
        time_limit_s=600,  # with a limit, evaluations run in a process of their own, which is a copy of this one
        out=folder,
    ).run


def test_a_killed_search_goes_on_within_the_trial(data: Data, tmp_path: Path) -> None:
    run = killed_search(data, tmp_path, 1)
    assert "was killed by SIGKILL" in run.log_path.read_text(encoding="utf-8")
    assert "training goes on behind epoch 2 of 4" in run.log_path.read_text(encoding="utf-8")
    assert list(run.path.rglob("*.pt")) == []
    (trial,) = run.trials()
    alone = TrainEvaluator(data, RECIPE)(trial.architecture, LazyNetwork(trial.architecture, 0), lambda *_: None)
    assert {**trial.metrics, **alone, "train_seconds": 0} == {**trial.metrics, "train_seconds": 0}


def test_a_search_that_is_done_leaves_no_checkpoint(data: Data, tmp_path: Path) -> None:
    """The trial ended with its process, as by a limit."""
    run = killed_search(data, tmp_path, 3)
    assert [trial.state for trial in run.trials()] == ["failed"]
    assert list(run.path.rglob("*.pt")) == []
