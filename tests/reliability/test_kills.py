"""Searches whose workers are killed at random moments: nothing finished is lost, nothing finished runs again."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest

from tests.reliability.killing import Counts, kill_until_done
from tests.reliability.postgres import Postgres


def check(counts: Counts, trials: int, kills: int) -> None:
    print(counts)
    assert counts.kills == kills
    assert counts.finished == trials
    assert (counts.lost, counts.twice, counts.torn) == ([], [], [])


def test_kills_over_sqlite(tmp_path: Path) -> None:
    check(kill_until_done(tmp_path, trials=40, workers=3, kills=5, seed=0), 40, 5)


def test_kills_and_lost_connections_over_postgres(tmp_path: Path, postgres: Postgres, database: str) -> None:
    search = partial(kill_until_done, tmp_path, trials=40, workers=4, seed=1, storage=database)
    check(search(kills=5, disturb=postgres.drop_connections), 40, 5)
    assert "does not answer, the next attempt" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.slow
def test_many_kills_over_sqlite(tmp_path: Path) -> None:
    check(kill_until_done(tmp_path, trials=200, workers=4, kills=50, seed=2), 200, 50)


@pytest.mark.slow
def test_many_kills_over_postgres(tmp_path: Path, postgres: Postgres, database: str) -> None:
    """The server itself is killed now and then."""

    def restart() -> None:
        if rng.random() < 0.1:
            postgres.stop()
            postgres.start()

    rng = random.Random(3)
    search = partial(kill_until_done, tmp_path, trials=200, workers=4, seed=3, storage=database)
    check(search(kills=50, disturb=restart), 200, 50)
