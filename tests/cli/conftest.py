from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import yaml

from dicenas.cli import main
from dicenas.nets import build
from dicenas.runs import RunFolder, TrialRecord
from dicenas.space import SpaceSpec

CONFIG = {
    "name": "small",
    "space": {"backbone": "shufflenetv2", "widths": [0.5], "depths": [[1], [1], [1]], "stem": "small"},
    "data": {"dataset": "digits", "image_size": 32, "train_limit": 100, "val_limit": 50},
    "evaluator": {"kind": "train", "epochs": 1, "batch": 50},
    "objectives": {"accuracy": "maximize", "macs": "minimize"},
    "latency": {"input_size": 64},
    "search": {"sampler": "random", "trials": 2, "seed": 0},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration of a search of seconds."""
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run folder of three complete trials with fresh weights and one that failed; trial 2 is the best."""
    run = RunFolder(tmp_path / "runs" / "small")
    run.path.mkdir(parents=True)
    run.config_path.write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    space = SpaceSpec.from_config(CONFIG["space"], num_classes=10, image_size=32)  # type: ignore[arg-type]
    rng = Random(0)
    for number in range(3):
        architecture = space.random(rng)
        macs = space.cost(architecture.at_size(64)).macs
        run.write_weights(number, build(architecture).state_dict())
        metrics = {"accuracy": 0.7 + 0.1 * number, "macs": float(macs)}
        run.write_trial(TrialRecord(number, architecture, "complete", metrics))
    run.write_trial(TrialRecord(3, space.random(rng), "failed", error="out of memory"))
    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end with status 2 and one message, no traceback; returns the message."""

    def call(*argv: str | Path) -> str:
        try:
            status = main([str(argument) for argument in argv])
        except SystemExit as stopped:  # argparse's own way to refuse
            status = int(stopped.code or 0)
        assert status == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        return captured.err

    return call
