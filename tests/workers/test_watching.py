"""What shows how far a search is: status, events, TensorBoard, and Optuna's own dashboard."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from dicenas.cli import main
from dicenas.events import read_events
from dicenas.runs import RunFolder
from dicenas.search import search
from dicenas.workers.status import read_statuses
from tests.loopback import answers, free_port
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


def test_status_passes_over_studies_of_others(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    optuna.create_study(study_name="mine", storage=run.storage_url)
    assert [status.study for status in read_statuses(run.storage_url)] == ["run"]
    assert main(["status", run.storage_url, "--study", "mine"]) == 2
    assert "study 'mine' in sqlite" in (said := capsys.readouterr().err)
    assert "is not that of a search" in said
    assert main(["status", run.storage_url, "--study", "nowhere"]) == 2
    assert "(searches: run)" in capsys.readouterr().err


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


@pytest.fixture(scope="module")
def chromium() -> str:
    """The browser."""
    found = shutil.which("chromium")
    assert found is not None
    return found


@pytest.fixture
def dashboard(run: RunFolder) -> Iterator[str]:
    """Address of a dashboard of the run's study."""
    port = free_port()
    script = Path(sys.executable).with_name("optuna-dashboard")
    process = subprocess.Popen([str(script), "--quiet", "--port", str(port), run.storage_url])
    try:
        deadline = time.monotonic() + 120
        while not answers(port):
            assert process.poll() is None
            assert time.monotonic() < deadline, "it does not answer"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/dashboard"
    finally:
        process.terminate()
        process.wait()


def seen_in(chromium: str, address: str, folder: Path) -> str:
    """The words of a page, as its scripts made it."""
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    # Scripts run on a clock of their own, which waits for what they load.
    command += [f"--user-data-dir={folder}", "--virtual-time-budget=20000", "--dump-dom", address]
    page = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    page = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_optuna_dashboard_opens_the_study(run: RunFolder, dashboard: str, chromium: str, tmp_path: Path) -> None:
    number = optuna.storages.get_storage(run.storage_url).get_study_id_from_name("run")
    page = seen_in(chromium, f"{dashboard}/studies/{number}/trials", tmp_path)
    assert f"run (id={number})" in page
    assert "3 Trials Trial 0 Complete Trial 1 Complete Trial 2 Complete" in page
    first = run.read_trial(0).metrics
    assert f"Value {first['accuracy']}, {first['macs']:.0f}" in page
