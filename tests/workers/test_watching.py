"""What shows how far a search is: status, events, TensorBoard, and Optuna's own dashboard."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicenas.cli import main
from dicenas.runs import RunFolder
from dicenas.search import search
from dicenas.workers.events import read_events
from dicenas.workers.status import read_statuses
from tests.reliability.made_up_search import SPACE, MadeUp


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("runs")
    return search(
        SPACE,
        MadeUp(),
        ("accuracy", "macs"),
        trials=3,
        sampler="random",
        tensorboard=True,
        name="run",
        out=folder,
    ).run


def test_status_of_a_run_folder(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    [status] = read_statuses(str(run.path))
    best = run.best({"accuracy": "maximize", "macs": "minimize"})
    assert (status.study, status.total, status.complete, status.failed, status.running) == ("run", 3, 3, 0, 0)
    assert status.best["trial"] == best.number
    assert status.best["accuracy"] == best.metrics["accuracy"]
    assert status.per_hour is not None
    assert status.per_hour > 0
    assert status.hours_left == 0
    assert main(["status", str(run.path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("run: 3 of 3 trials (3 complete, 0 failed), 0 running\n")
    assert f"best:    trial {best.number}, accuracy {best.metrics['accuracy']:.4g}" in out


def test_status_of_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert f"{tmp_path} holds no study" in capsys.readouterr().err
    assert main(["status", f"sqlite:///{tmp_path}/nowhere/study.db"]) == 2
    assert "unable to open database file" in capsys.readouterr().err


def test_events_tell_of_every_trial(run: RunFolder) -> None:
    events = list(read_events(run.events_path.read_bytes()))
    for kind in ("trial_started", "trial_ended"):
        assert [event["trial"] for event in events if event["event"] == kind] == run.trial_numbers()
    assert sorted(event["time"] for event in events) == [event["time"] for event in events]


def test_tensorboard_reads_the_scalars(run: RunFolder) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    accuracies = {scalar.step: scalar.value for scalar in events.Scalars("trials/accuracy")}
    assert accuracies == {trial.number: pytest.approx(trial.metrics["accuracy"]) for trial in run.trials()}
    assert events.Scalars("best/accuracy")[-1].value == pytest.approx(max(accuracies.values()))
    assert events.Scalars("best/macs")[-1].value == min(trial.metrics["macs"] for trial in run.trials())


def test_optuna_dashboard_opens_the_study(run: RunFolder) -> None:
    from optuna_dashboard import wsgi
    from werkzeug.test import Client

    client = Client(wsgi(run.storage_url))
    assert "<title>Optuna Dashboard</title>" in client.get("/dashboard").text
    [summary] = client.get("/api/studies").json["study_summaries"]
    assert summary["study_name"] == "run"
    study = client.get(f"/api/studies/{summary['study_id']}").json
    assert [trial["state"] for trial in study["trials"]] == ["Complete"] * 3
