"""Studies in a database server: lost connections, refusals, workers that differ, and several at work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
import yaml

import dicenas.workers.manifest
from dicenas.cli import main
from dicenas.events import read_events
from dicenas.runs import RunFolder
from dicenas.workers import StorageLostError, open_storage
from dicenas.workers.board import Board
from dicenas.workers.storage import board_engine, open_proxy, retrying
from tests.loopback import free_port
from tests.reliability.killing import ROOT


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (
            lambda url: url.replace("s3cret", "wrong"),
            StorageLostError,
            r"nas:\*\*\*@.* refuses: .*authentication failed",
        ),
        (lambda url: re.sub(r"nas_\d+", "nowhere", url), StorageLostError, 'refuses: .*"nowhere" does not exist'),
        (lambda url: re.sub(r":\d+/", ":1/", url), StorageLostError, "does not answer: .*refused"),
        (lambda url: "nonsense", ValueError, "'nonsense' is no URL of a database; expected sqlite"),
        (lambda url: "mysql+missing://h/x", ValueError, "driver is not installed"),
    ],
    ids=["password", "database", "port", "url", "driver"],
)
def test_a_database_that_cannot_be_used(database: str, change: object, error: type[Exception], said: str) -> None:
    assert callable(change)
    refuse(change(database), error, said)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("s3cret", "wrong", r"nas:\*\*\*@.* refuses: .*Access denied for user 'nas'"),
        (r"nas_\d+", "nowhere", r"refuses: .*Unknown database 'nowhere'"),
        (r":\d+/", ":1/", r"does not answer: .*Can't connect to MySQL server"),
        (r"@[\d.]+", "@nowhere.invalid", r"refuses: .*Name or service not known"),
    ],
    ids=["password", "database", "port", "host"],
)
def test_a_mysql_database_that_cannot_be_used(mysql_database: str, old: str, new: str, said: str) -> None:
    refuse(re.sub(old, new, mysql_database), StorageLostError, said)


def refuse(url: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=f"(?s){said}") as raised:
        open_storage(url, patience_s=0.5)
    assert "s3cret" not in str(raised.value)


def open_together(url: str) -> None:
    """Open an empty database from several sides at once, as a search and the proxy in front of it do."""
    together = threading.Barrier(4)

    def opened(_: int) -> list[str]:
        together.wait()
        storage = open_storage(url, patience_s=0)
        Board(board_engine(storage), "study")
        return sa.inspect(storage.engine).get_table_names()

    with ThreadPoolExecutor(4) as pool:
        for tables in pool.map(opened, range(4)):
            assert {"studies", "alembic_version", "dicenas_claims"} <= set(tables)


def test_processes_that_open_an_empty_database_at_once(database: str) -> None:
    open_together(database)


def test_processes_that_open_an_empty_mysql_database_at_once(mysql_database: str) -> None:
    open_together(mysql_database)


def test_tables_of_another_optuna(database: str) -> None:
    storage = open_storage(database)
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'v9.9.9'")
    with pytest.raises(ValueError, match="no longer compatible with the table schema"):
        open_storage(database)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration of a search of seconds."""
    path = tmp_path / "small.yaml"
    settings = {
        "name": "small",
        "space": {"backbone": "shufflenetv2", "widths": [0.5], "depths": [[1], [1], [1]], "stem": "small"},
        "data": {"dataset": "digits", "image_size": 32, "train_limit": 100, "val_limit": 50},
        "evaluator": {"kind": "train", "epochs": 1, "batch": 50},
        "objectives": {"accuracy": "maximize", "macs": "minimize"},
        "search": {"sampler": "random", "trials": 2},
    }
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def test_a_proxy_that_does_not_answer() -> None:
    with pytest.raises(ValueError, match=r"proxy 'nowhere': expected HOST:PORT"):
        open_proxy("nowhere")
    proxy = open_proxy("127.0.0.1:1")
    with pytest.raises(StorageLostError, match=r"the study does not answer: gRPC proxy: .*127\.0\.0\.1:1"):
        retrying(lambda: optuna.create_study(storage=proxy, study_name="study"), "the study", patience_s=0.5)


@pytest.fixture
def started(tmp_path: Path, config: Path, database: str) -> str:
    """A database with a search of two trials, of which one is done."""
    arguments = ["search", str(config), "--storage", database, "--out", str(tmp_path / "first"), "--trials", "1"]
    assert main(arguments) == 0
    return database


def test_a_worker_joins_with_nothing_but_the_url(
    started: str, tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ["search", str(config), "--storage", started, "--out", str(tmp_path / "first"), "--trials", "4"]
    script = f"import sys; from dicenas.cli import main; sys.exit(main({first!r}))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # One study for all the looks: each of its own would hold a connection, of which the server has few.
    study = optuna.load_study(study_name="small", storage=open_storage(started))
    with subprocess.Popen([sys.executable, "-c", script], env=environment) as process:
        while study.user_attrs["dicenas_search"]["settings"]["search"]["trials"] == 1:
            assert process.poll() is None
            time.sleep(0.1)
        assert main(["worker", "--storage", started, "--study", "small", "--out", str(tmp_path / "second")]) == 0
        assert process.wait() == 0
    assert "small: the trials of this worker are done" in capsys.readouterr().out
    # What the other one evaluated was collected at the end, wherever it was evaluated.
    run = RunFolder(tmp_path / "first" / "small")
    assert len(run.trials()) == 4
    assert len({trial.architecture.hash for trial in run.trials()}) == 4
    assert main(["status", started]) == 0
    out = capsys.readouterr().out
    assert "small: 4 of 4 trials (4 complete, 0 failed), 0 running" in out
    assert "s3cret" not in out


def test_a_worker_that_differs_is_refused(
    started: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = ["worker", "--storage", started, "--out", str(tmp_path / "second")]
    assert main([*worker, "--study", "other"]) == 2
    assert "there is no study 'other' in postgresql://nas:***@" in capsys.readouterr().err
    monkeypatch.setattr(dicenas.workers.manifest, "__version__", "99.0")
    assert main([*worker, "--study", "small"]) == 2
    assert re.search(r"is worked on by dicenas [\d.]+, this is 99\.0", capsys.readouterr().err)
    assert main([*worker, "--study", "small", "--device", "gpu3"]) == 2
    assert "unknown device 'gpu3'; expected cpu" in capsys.readouterr().err
    assert not (tmp_path / "second").exists()


def test_another_search_under_the_same_name_is_refused(
    started: str, tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["search", str(config), "--storage", started, "--out", str(tmp_path / "second"), "--seed", "7"]
    assert main(arguments) == 2
    assert "search.seed: 0 there, 7 now" in capsys.readouterr().err
    bounded = yaml.safe_load(config.read_text(encoding="utf-8")) | {"constraints": {"macs": 9e7}}
    config.write_text(yaml.safe_dump(bounded), encoding="utf-8")
    assert main(arguments[:-2]) == 2
    assert "constraints.macs: not given there, 90000000.0 now" in capsys.readouterr().err.replace("'", "")


PROXY = """
import sys
from optuna.storages import run_grpc_proxy_server
from dicenas.workers import open_storage

run_grpc_proxy_server(open_storage(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]))
"""


@pytest.mark.slow
def test_two_workers_behind_a_proxy_that_is_started_again(database: str, tmp_path: Path, config: Path) -> None:
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = ["search", str(config), "--storage", database, "--out", str(tmp_path), "--trials", "6"]
    arguments += ["--proxy", f"127.0.0.1:{port}", "--workers", "2"]
    run = RunFolder(tmp_path / "small")

    def proxy() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", PROXY, database, str(port)], env=environment)

    server = proxy()
    try:
        with subprocess.Popen([sys.executable, "-m", "dicenas", *arguments], env=environment) as search:
            while not run.trial_numbers():
                assert search.poll() is None
                time.sleep(0.1)
            server.kill()
            server.wait()
            server = proxy()
            assert search.wait() == 0
    finally:
        server.kill()
        server.wait()
    assert len({trial.architecture.hash for trial in run.trials()}) == len(run.trials()) == 6
    started = [event for event in read_events(run.events_path.read_bytes()) if event["event"] == "worker_started"]
    assert {event["worker"] for event in started} == {0, 1}
