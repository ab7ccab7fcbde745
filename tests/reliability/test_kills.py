"""Searches whose workers are killed at random moments: nothing finished is lost, nothing finished runs again."""

from __future__ import annotations

import json
import random
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml

from dicenas.evaluation.tabular import SCHEMA_VERSION
from dicenas.nets import architecture_cost
from dicenas.space import SpaceSpec
from tests.reliability.killing import Counts, kill_until_done, made_up_search
from tests.reliability.mariadb import MariaDB
from tests.reliability.postgres import Postgres
from tests.reliability.tally import Tally


def check(counts: Counts, trials: int, kills: int, tally: Tally) -> None:
    print(counts)
    tally(kills=counts.kills, lost=len(counts.lost), again=len(counts.twice), torn=len(counts.torn))
    assert counts.kills == kills
    assert counts.finished == trials
    assert (counts.lost, counts.twice, counts.torn) == ([], [], [])


def test_kills_over_sqlite(tmp_path: Path, tally: Tally) -> None:
    command = made_up_search(tmp_path, trials=40, workers=3)
    check(kill_until_done(tmp_path, command, trials=40, kills=5, seed=0), 40, 5, tally)


def test_kills_and_lost_connections_over_postgres(
    tmp_path: Path, postgres: Postgres, database: str, tally: Tally
) -> None:
    command = made_up_search(tmp_path, 40, 4, database)
    search = partial(kill_until_done, tmp_path, command, trials=40, seed=1, storage=database)
    check(search(kills=5, disturb=postgres.drop_connections), 40, 5, tally)
    assert "does not answer, the next attempt" in (tmp_path / "run" / "log.txt").read_text()


def test_kills_over_mysql_whose_server_is_started_again(
    tmp_path: Path, mariadb: MariaDB, mysql_database: str, tally: Tally
) -> None:
    def restart() -> None:
        mariadb.stop()
        mariadb.start()

    command = made_up_search(tmp_path, 12, 2, mysql_database)
    search = partial(kill_until_done, tmp_path, command, trials=12, seed=5, storage=mysql_database)
    check(search(kills=2, disturb=restart), 12, 2, tally)
    assert "does not answer, the next attempt" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.slow
def test_many_kills_over_sqlite(tmp_path: Path, tally: Tally) -> None:
    command = made_up_search(tmp_path, trials=200, workers=4)
    check(kill_until_done(tmp_path, command, trials=200, kills=50, seed=2), 200, 50, tally)


def many_kills(folder: Path, server: Postgres | MariaDB, database: str, tally: Tally) -> None:
    """The server itself is killed now and then."""

    def restart() -> None:
        if rng.random() < 0.1:
            server.stop()
            server.start()

    rng = random.Random(3)
    command = made_up_search(folder, 200, 4, database)
    search = partial(kill_until_done, folder, command, trials=200, seed=3, storage=database)
    check(search(kills=50, disturb=restart), 200, 50, tally)


@pytest.mark.slow
def test_many_kills_over_postgres(tmp_path: Path, postgres: Postgres, database: str, tally: Tally) -> None:
    many_kills(tmp_path, postgres, database, tally)


@pytest.mark.slow
def test_many_kills_over_mysql(tmp_path: Path, mariadb: MariaDB, mysql_database: str, tally: Tally) -> None:
    many_kills(tmp_path, mariadb, mysql_database, tally)


TABLE_SPACE = SpaceSpec(
    "shufflenetv2",
    ops=("separable_k3", "separable_se_k3", "dice_k3", "skip"),
    widths=(0.1, 0.2),
    depths=((1,), (1,), (1,)),
    stems=("small",),
    resolutions=(12, 24),
    num_classes=4,
    block_ops={f"s{stage}_b0": ("separable_k3",) for stage in (1, 2, 3)},
)


def write_table(path: Path) -> None:
    """A made-up table: one training of two epochs for each of 256 architectures."""
    header = {
        "schema_version": SCHEMA_VERSION,
        "space": TABLE_SPACE.to_dict(),
        "seeds": [0],
        "recipe": {"epochs": 2},
        "dataset": {"name": "made up"},
    }
    lines: list[dict[str, object]] = [header]
    for number, architecture in enumerate(TABLE_SPACE.enumerate()):
        cost = architecture_cost(architecture)
        lines.append(
            {
                "architecture": architecture.hash,
                "sample": TABLE_SPACE.sample(architecture),
                "seed": 0,
                "val_accuracy": [0.3, 0.3 + number / 1000],
                "val_loss": [2.0, 1.5],
                "train_loss": [2.1, 1.6],
                "test_accuracy": 0.3,
                "macs": cost.macs,
                "params": cost.params,
                "cpu_seconds": 10.0,
                "wall_seconds": 20.0,
                "finished": "2026-01-01T00:00:00+00:00",
                "origin": "made up",
            }
        )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.mark.slow
def test_four_workers_replay_a_table_over_postgres(tmp_path: Path, database: str, tally: Tally) -> None:
    """The search of a configuration, whose workers are processes of ``dicenas worker``."""
    write_table(tmp_path / "table.jsonl")
    settings = {
        "name": "run",
        "evaluator": {"kind": "tabular", "path": str(tmp_path / "table.jsonl")},
        "objectives": {"accuracy": "maximize", "macs": "minimize"},
        "search": {"sampler": "random", "trials": 200},
    }
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = [sys.executable, "-m", "dicenas", "search", str(config), "--workers", "4"]
    command += ["--storage", database, "--out", str(tmp_path)]
    check(kill_until_done(tmp_path, command, trials=200, kills=6, seed=4, storage=database), 200, 6, tally)
