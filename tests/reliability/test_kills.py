"""Searches whose workers are killed at random moments: nothing finished is lost, nothing finished runs again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.killing import Counts, kill_until_done


def check(counts: Counts, trials: int, kills: int) -> None:
    print(counts)
    assert counts.kills == kills
    assert counts.finished == trials
    assert (counts.lost, counts.twice, counts.torn) == ([], [], [])


def test_kills_over_sqlite(tmp_path: Path) -> None:
    check(kill_until_done(tmp_path, trials=40, workers=3, kills=5, seed=0), 40, 5)


def test_kills_over_postgres(tmp_path: Path, database: str) -> None:
    check(kill_until_done(tmp_path, trials=40, workers=4, kills=5, seed=1, storage=database), 40, 5)


@pytest.mark.slow
def test_many_kills_over_sqlite(tmp_path: Path) -> None:
    check(kill_until_done(tmp_path, trials=200, workers=4, kills=50, seed=2), 200, 50)


@pytest.mark.slow
def test_many_kills_over_postgres(tmp_path: Path, database: str) -> None:
    check(kill_until_done(tmp_path, trials=200, workers=4, kills=50, seed=3, storage=database), 200, 50)
