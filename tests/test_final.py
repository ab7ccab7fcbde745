"""The final training of a search: what is chosen, what is refused before, and what survives interruptions."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import dicenas.final
from dicenas.cli import main
from dicenas.config import FinalConfig
from dicenas.evaluation import DataConfig, TrainingDiverged
from dicenas.events import read_events
from dicenas.final import FinalTraining, read_final_trials
from dicenas.pareto import Direction
from dicenas.report.final_training import final_training
from dicenas.report.markup import to_html
from dicenas.report.summary import RunSummary
from dicenas.runs import RunFolder, TrialRecord
from dicenas.space import SpaceSpec
from dicenas.training import TrainFolder, TrainResult, train
from dicenas.workers.supervisor import forked

SPACE = SpaceSpec(
    "shufflenetv2",
    ops=("separable_k3", "skip"),
    widths=(0.1, 0.2),
    depths=((1,), (1,), (1,)),
    stems=("small",),
    resolutions=(12,),
    num_classes=3,
)
RECIPE = {"epochs": 8, "batch": 16, "learning_rate": 0.05, "warmup_epochs": 1, "crop": "center", "flip": False}
OBJECTIVES: dict[str, Direction] = {"macs": "minimize", "accuracy": "maximize"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of three digits, 24 images each, a fifth of which is kept for validation."""
    from PIL import Image
    from sklearn.datasets import load_digits

    root, digits = tmp_path_factory.mktemp("images"), load_digits()
    for digit in range(3):
        (root / f"digit {digit}").mkdir()
        for number, pixels in enumerate(digits.images[digits.target == digit][:24]):
            Image.fromarray((pixels * 15).astype("uint8")).save(root / f"digit {digit}" / f"{number}.png")
    return root


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Four complete trials, of which the second is dominated and the last is the cheapest."""
    run = RunFolder(tmp_path / "run")
    architectures = list(SPACE.enumerate())
    for number, (accuracy, macs) in enumerate([(0.9, 4e6), (0.5, 5e6), (0.8, 3e6), (0.4, 1e6)]):
        metrics = {"accuracy": accuracy, "macs": macs}
        run.write_trial(TrialRecord(number, architectures[number], "complete", metrics))
    run.write_trial(TrialRecord(4, architectures[4], "failed", error="out of memory"))
    return run


def final(run: RunFolder, data: Any, wanted: str | int = "best", formats: Any = (), **changes: Any) -> FinalTraining:
    return FinalTraining(run, FinalConfig({**RECIPE, **changes}, wanted), data, OBJECTIVES, formats)


@pytest.mark.parametrize(
    ("wanted", "numbers"), [("top2", [0, 2]), ("top9", [0, 2, 3]), ("best", [3]), (1, [1]), (4, [4])]
)
def test_what_is_trained(
    wanted: str | int,
    numbers: list[int],
    run: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trained: list[str] = []

    def pretend(architecture: Any, data: Any, recipe: Any, out: Path, **_: Any) -> TrainResult:
        trained.append(str(out))
        return TrainResult(out, {"accuracy": 0.5})

    monkeypatch.setattr(dicenas.final, "train", pretend)
    found = final(run, "digits", wanted).run(lambda: None)
    assert trained == [str(run.path / "final" / str(number)) for number in numbers]
    assert [trial.trial.number for trial in found] == numbers
    assert ("the front holds 3" in caplog.text) == (wanted == "top9")


def test_a_trial_that_is_not_there(run: RunFolder) -> None:
    with pytest.raises(FileNotFoundError, match=r"no finished trial 17 \(finished: 0, 1, 2, 3, 4\)"):
        final(run, "digits", 17).run(lambda: None)


def test_what_cannot_be_trained_is_refused_before(run: RunFolder, images: Path, tmp_path: Path) -> None:
    final(run, str(images)).check(SPACE)
    with pytest.raises(ValueError, match=r"final\.data has 10 classes, but the networks of the search tell 3 apart"):
        final(run, "digits").check(SPACE)
    with pytest.raises(ValueError, match="final: batch: 512, but there are only 57 training images"):
        final(run, str(images), batch=512).check(SPACE)
    with pytest.raises(ValueError, match="final: batch: 16 cannot be shared by 1 processes in micro-batches of 3"):
        final(run, str(images), micro_batch=3).check(SPACE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=f"final: data: .*{tmp_path / 'empty'}"):
        final(run, str(tmp_path / "empty")).check(SPACE)


def test_one_that_diverges_is_left(
    run: RunFolder, images: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def diverge_once(architecture: Any, *arguments: Any, **options: Any) -> Any:
        if architecture == run.read_trial(0).architecture:
            raise TrainingDiverged(7, float("nan"))
        return train(architecture, *arguments, **options)

    monkeypatch.setattr(dicenas.final, "train", diverge_once)
    first, second = final(run, str(images), "top2", epochs=2).run(lambda: None)
    assert (first.trial.number, first.result) == (0, None)
    assert (second.trial.number, second.result is None) == (2, False)
    assert "trial 0: training diverged: the loss is nan after 7 steps" in caplog.text
    assert final_events(run) == [
        ("final_started", 0, None),
        ("final_ended", 0, str(TrainingDiverged(7, float("nan")))),
        ("final_started", 2, None),
        ("final_step", 2, None),
        ("final_step", 2, None),
        ("final_ended", 2, None),
    ]
    assert [trial.trial.number for trial in read_final_trials(run)] == [2]
    # What is there belongs to its recipe and data, whichever trials are to be trained.
    final(run, str(images), "best", epochs=2).check(SPACE)
    with pytest.raises(ValueError, match=r"final/2 was trained otherwise(?s:.*)recipe.epochs: 2 there, 3 now"):
        final(run, str(images), "best", epochs=3).check(SPACE)
    fewer = DataConfig("imagefolder", images, train_limit=30)
    with pytest.raises(ValueError, match=r"final/2 was trained otherwise(?s:.*)data.train images: 57 there, 30 now"):
        final(run, fewer, epochs=2).check(SPACE)


def test_what_was_killed_goes_on_and_what_is_finished_is_kept(run: RunFolder, images: Path) -> None:
    # Killed once the first network is trained, and the second has begun.
    child = forked(lambda _: final(run, str(images), "top2").run(lambda: None))
    deadline = time.monotonic() + 600
    while len(finals := read_final_trials(run)) < 2 or rows(finals[-1].folder.metrics_path) < 2:
        assert time.monotonic() < deadline
        assert child.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    while child.poll() is None:
        time.sleep(0.01)
    finished, half = read_final_trials(run)
    assert (finished.trial.number, half.trial.number) == (0, 2)
    assert finished.result is not None
    assert half.result is None
    before = {file: file.stat().st_mtime_ns for file in finished.folder.path.iterdir()}

    first, second = final(run, str(images), "top2").run(lambda: None)
    assert {file: file.stat().st_mtime_ns for file in finished.folder.path.iterdir()} == before
    for trained in (first, second):
        alone = train(
            trained.trial.architecture, images, recipe(), run.path / f"alone {trained.trial.number}", formats=()
        )
        assert trained.result is not None
        assert {**trained.result.metrics, "train_seconds": 0} == {**alone.metrics, "train_seconds": 0}


@pytest.mark.parametrize(
    ("metrics", "said"), [({"accuracy": 0.25}, "that of the trial"), ({}, "missing: the search trained none")]
)
def test_the_report_of_trials_with_and_without_accuracies(metrics: dict[str, float], said: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_config({"objectives": {"macs": "minimize"}})
    run.write_trial(TrialRecord(0, next(SPACE.enumerate()), "complete", {"macs": 1e6, **metrics}))
    assert final_training(RunSummary.read(run)) is None
    folder = TrainFolder(run.path / "final" / "0")
    folder.path.mkdir(parents=True)
    folder.claim({"recipe": RECIPE, "data": {"train images": 57, "validation images": 15}})
    folder.write_result({"accuracy": 0.75, "epochs": 8})
    section = final_training(RunSummary.read(run))
    assert section is not None
    page = to_html(section)
    assert f"on 57 images, and measured on 15. The searched accuracy is {said}" in page
    assert ("<td>+50.0</td>" in page) == bool(metrics)
    assert "<td>75.00</td>" in page


def test_a_search_trains_its_best_through_interruptions(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {
        "name": "small",
        "space": {
            "backbone": "shufflenetv2",
            "ops": ["separable_k3", "skip"],
            "widths": [0.1],
            "depths": [[1], [1], [1]],
        },
        "data": {"dataset": "imagefolder", "root": str(images), "image_size": 12, "train_limit": 30, "val_limit": 9},
        "evaluator": {"kind": "train", "epochs": 1, "batch": 10},
        "objectives": {"macs": "minimize", "params": "maximize"},  # what is larger is on the front too
        "latency": {"input_size": None},
        "search": {"sampler": "random", "trials": 3},
        "export": {"formats": ["py"]},
        "final": {"train": "top2", "recipe": RECIPE},
    }
    path, run = tmp_path / "small.yaml", RunFolder(tmp_path / "runs" / "small")
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    command = ["search", str(path), "--out", str(tmp_path / "runs")]

    def interrupted(*arguments: Any, report: Callable[[int, Mapping[str, float]], None], **options: Any) -> Any:
        def interrupt(epoch: int, metrics: Mapping[str, float]) -> None:
            report(epoch, metrics)
            if epoch == 3:
                raise KeyboardInterrupt

        return train(*arguments, report=interrupt, **options)

    with monkeypatch.context() as patch:
        patch.setattr(dicenas.final, "train", interrupted)
        assert main(command) == 130
    assert "the same command goes on with the run" in capsys.readouterr().err
    (begun,) = read_final_trials(run)
    assert begun.result is None
    assert len(run.trials()) == 3
    assert main(["status", str(run.path)]) == 0
    assert capsys.readouterr().out.endswith(f"  final:   trial {begun.trial.number}, 3 of 8 epochs\n")

    assert main(command) == 0
    said = capsys.readouterr().out
    log = run.log_path.read_text(encoding="utf-8")
    assert len(re.findall("goes on in epoch 4", log)) == 1
    first = begun.trial.number
    told = [(event, error) for event, trial, error in final_events(run) if trial == first]
    steps = [("final_step", None)]
    assert told == [
        *[("final_started", None), *3 * steps, ("final_interrupted", "KeyboardInterrupt")],
        *[("final_started", None), *5 * steps, ("final_ended", None)],
    ]
    for trained in read_final_trials(run):
        assert trained.result is not None
        kept = json.loads((trained.folder.export_path / "metrics.json").read_text(encoding="utf-8"))
        assert kept["accuracy"] == trained.result.metrics["accuracy"]
        assert {file.name for file in trained.folder.export_path.iterdir()} >= {
            "model.py",
            "README.md",
            "architecture.svg",
        }
        assert not (trained.folder.export_path / "model.safetensors").exists()
        assert str(trained.folder.export_path) in said
        page = run.report_path.read_text(encoding="utf-8")
        assert f'href="final/{trained.trial.number}/export/README.md"' in page
        assert f"{100 * trained.result.metrics['accuracy']:.4g}"[:4] in page
    assert "From search to result" in page
    assert "8 epochs (batch 16, learning rate 0.05) on 57 images, and measured on 15" in page

    assert main(["status", str(run.path)]) == 0
    status = capsys.readouterr().out
    for trained in read_final_trials(run):
        assert trained.result is not None
        assert f"final:   trial {trained.trial.number}, accuracy {trained.result.metrics['accuracy']:.4g}\n" in status

    # All is done: nothing is trained, and the recipe is held to.
    with monkeypatch.context() as patch:
        patch.setattr(dicenas.final, "train", None)
        assert main(command) == 0
    assert "nothing was added" in capsys.readouterr().out
    path.write_text(yaml.safe_dump({**config, "final": {"train": "best", "recipe": {**RECIPE, "epochs": 9}}}))
    assert main(command) == 2
    assert "recipe.epochs: 8 there, 9 now" in capsys.readouterr().err


def final_events(run: RunFolder) -> list[tuple[str, int, str | None]]:
    """What the log of events tells of final trainings: each event with its trial, and the error or interruption."""
    events = [event for event in read_events(run.events_path.read_bytes()) if event["event"].startswith("final_")]
    return [(event["event"], event["trial"], event.get("error") or event.get("reason")) for event in events]


def rows(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines()) - 1 if path.is_file() else 0


def recipe() -> Any:
    return FinalConfig(RECIPE).training
