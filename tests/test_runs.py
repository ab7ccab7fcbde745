"""Run folders: what is written is read again, damage is named, fronts are right."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dicenas.architecture import Architecture
from dicenas.nets import Network, build
from dicenas.pareto import Direction
from dicenas.runs import RunFolder, TrialRecord

OBJECTIVES: dict[str, Direction] = {"accuracy": "maximize", "latency_ms": "minimize"}


def architecture(number: int = 0) -> Architecture:
    return Architecture("shufflenetv2", 1.0, (("dice_k3",) * (2 + number),) * 3, num_classes=10)


def complete(number: int, **metrics: float) -> TrialRecord:
    return TrialRecord(number, architecture(number), "complete", metrics)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "quickstart")


def test_trials_round_trip(run: RunFolder) -> None:
    records = [
        complete(2, accuracy=0.9, latency_ms=1.5, macs=3_000_000),
        complete(10, accuracy=0.8, latency_ms=float("inf")),
        TrialRecord(0, architecture(), "failed", {"macs": 5}, error="loss is NaN"),
        TrialRecord(1, architecture(), "failed"),
    ]
    for record in records:
        run.write_trial(record)
    assert run.trial_numbers() == [0, 1, 2, 10]
    assert run.trials() == sorted(records, key=lambda record: record.number)
    assert run.read_trial(2) == records[0]
    metrics = json.loads((run.trial_path(2) / "metrics.json").read_text(encoding="utf-8"))
    assert len(metrics.pop("sha256")) == 64
    assert metrics == {
        "trial": 2,
        "state": "complete",
        "accuracy": 0.9,
        "latency_ms": 1.5,
        "macs": 3_000_000,
    }
    assert Architecture.load(run.trial_path(2) / "architecture.json") == architecture(2)


def test_a_trial_may_be_written_again(run: RunFolder) -> None:
    run.write_trial(complete(3, accuracy=0.1))
    run.write_trial(complete(3, accuracy=0.2))
    assert run.read_trial(3).metrics == {"accuracy": 0.2}


def test_places(run: RunFolder) -> None:
    inside = {
        "config.yaml": run.config_path,
        "environment.json": run.environment_path,
        "log.txt": run.log_path,
        "report.html": run.report_path,
        "export": run.export_path,
        "trials/7": run.trial_path(7),
        "trials/7/weights.safetensors": run.weights_path(7),
    }
    assert {path.relative_to(run.path).as_posix(): path for path in inside.values()} == inside
    assert run.storage_url == f"sqlite:///{run.path.resolve()}/study.db"
    assert not run.path.exists()


def test_unfinished_trials_do_not_count(run: RunFolder) -> None:
    assert run.trials() == []
    run.write_trial(complete(4, accuracy=0.5))
    run.trial_path(5).mkdir()
    architecture().save(run.trial_path(5) / "architecture.json")
    (run.path / "trials" / "notes").mkdir()
    (run.path / "trials" / "notes" / "metrics.json").write_text("{}", encoding="utf-8")
    assert run.trial_numbers() == [4]
    with pytest.raises(FileNotFoundError, match=r"no finished trial 5 \(finished: 4\)"):
        run.read_trial(5)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"trial": 4}', '{"trial": 4, "accuracy": 1}', "3"])
def test_damaged_metrics_are_named(run: RunFolder, text: str) -> None:
    run.write_trial(complete(4, accuracy=0.5))
    (run.trial_path(4) / "metrics.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"trials/4/metrics\.json is damaged"):
        run.read_trial(4)


def test_damaged_architecture_is_named(run: RunFolder) -> None:
    run.write_trial(complete(4, accuracy=0.5))
    (run.trial_path(4) / "architecture.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"trials/4/architecture\.json: "):
        run.trials()


@pytest.mark.parametrize("name", ["trial", "state", "error", "sha256"])
def test_metrics_cannot_take_the_file_s_own_names(name: str) -> None:
    with pytest.raises(ValueError, match=f"metrics cannot be called {name}"):
        TrialRecord(0, architecture(), "complete", {name: 1.0})


# Weights


@pytest.fixture
def trained(run: RunFolder) -> Network:
    """The network of trial 4, which is in the run folder."""
    small = Architecture("shufflenetv2", 0.1, (("separable_k3",) * 2,) * 3, "small", (16, 16), 4)
    net = build(small)
    net(torch.randn(4, 3, 16, 16))  # running statistics of its own
    run.write_trial(TrialRecord(4, small, "complete", {"accuracy": 0.5}))
    run.write_weights(4, net.to(memory_format=torch.channels_last).state_dict())
    return net


def test_weights_round_trip(run: RunFolder, trained: Network) -> None:
    net = run.load_network(4)
    assert net.architecture == trained.architecture
    state = trained.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert {path.name for path in run.trial_path(4).iterdir()} == {
        *("architecture.json", "metrics.json", "weights.safetensors")
    }


def test_missing_weights(run: RunFolder) -> None:
    run.write_trial(TrialRecord(3, architecture(), "failed", error="out of memory"))
    with pytest.raises(FileNotFoundError, match="trial 3 is failed and has no weights"):
        run.load_network(3)
    with pytest.raises(FileNotFoundError, match="no finished trial 9"):
        run.load_network(9)


@pytest.mark.parametrize("length", [0, 7, 5000])
@pytest.mark.usefixtures("trained")
def test_truncated_weights_are_named(run: RunFolder, length: int) -> None:
    path = run.weights_path(4)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"weights\.safetensors does not hold the weights"):
        run.load_network(4)


def test_weights_of_another_network_are_named(run: RunFolder, trained: Network) -> None:
    other = trained.architecture.replace(num_classes=5)
    run.write_weights(4, build(other).state_dict())
    with pytest.raises(ValueError, match=r"weights\.safetensors does not hold the weights(.|\n)*classifier"):
        run.load_network(4)


# Fronts


def filled(run: RunFolder) -> RunFolder:
    for record in (
        complete(0, accuracy=0.7, latency_ms=1.0, macs=10),
        complete(1, accuracy=0.9, latency_ms=3.0, macs=30),
        complete(2, accuracy=0.8, latency_ms=3.5, macs=20),
        complete(3, accuracy=float("nan"), latency_ms=0.1),
        complete(4, accuracy=0.99),
        TrialRecord(5, architecture(), "failed", {"accuracy": 1.0, "latency_ms": 0.1}, error="killed"),
    ):
        run.write_trial(record)
    return run


def test_front_is_of_complete_trials_with_finite_objectives(run: RunFolder) -> None:
    filled(run)
    assert [trial.number for trial in run.front(OBJECTIVES)] == [1, 0]
    assert run.best(OBJECTIVES).number == 1
    assert run.best({"latency_ms": "minimize"}).number == 3
    assert run.best({"macs": "minimize"}).number == 0


def test_best_of_nothing(run: RunFolder) -> None:
    with pytest.raises(ValueError, match="quickstart holds no complete trial"):
        run.best(OBJECTIVES)


def test_front_as_csv(run: RunFolder) -> None:
    filled(run).write_front(OBJECTIVES)
    with (run.path / "pareto.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"trial": "1", "architecture": architecture(1).hash, "accuracy": "0.9", "latency_ms": "3.0", "macs": "30"},
        {"trial": "0", "architecture": architecture(0).hash, "accuracy": "0.7", "latency_ms": "1.0", "macs": "10"},
    ]


def test_csv_without_metrics_of_some(run: RunFolder) -> None:
    extra: dict[str, Any] = {"note_ms": 5.0}
    run.write_trial(complete(0, accuracy=0.7, latency_ms=1.0))
    run.write_trial(complete(1, accuracy=0.9, latency_ms=3.0, **extra))
    run.write_front(OBJECTIVES)
    lines = (run.path / "pareto.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "trial,architecture,accuracy,latency_ms,note_ms"
    assert [line.rsplit(",", 1)[1] for line in lines[1:]] == ["5.0", ""]
