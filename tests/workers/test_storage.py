"""Databases that do not answer: how long they are asked again."""

from __future__ import annotations

import sqlite3
from types import SimpleNamespace

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from dicenas.workers import StorageLostError
from dicenas.workers import storage as module
from dicenas.workers.storage import Patience, retrying


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that waiting moves."""
    now = [1000.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    return now


def lost(driver: Exception) -> OperationalError:
    return OperationalError("SELECT 1", {}, driver)


@pytest.mark.parametrize(("back_after_s", "found"), [(600, True), (10_000, False)])
def test_a_server_is_waited_for_that_is_started_again(now: list[float], back_after_s: float, found: bool) -> None:
    def ask() -> str:
        if now[0] < 1000 + back_after_s:
            raise lost(psycopg.OperationalError("connection refused"))
        return "found"

    if found:
        assert retrying(ask, "the study") == "found"
        assert now[0] < 1000 + back_after_s + 15
        return
    with pytest.raises(StorageLostError, match="the study does not answer: connection refused"):
        retrying(ask, "the study")
    assert 800 < now[0] - 1000 <= 900


def test_a_file_is_waited_for_no_longer_than_a_minute(now: list[float]) -> None:
    def ask() -> None:
        raise lost(sqlite3.OperationalError("disk I/O error"))

    with pytest.raises(StorageLostError, match="disk I/O error"):
        retrying(ask, "the study")
    assert 30 < now[0] - 1000 <= 60


def test_patience_begins_anew_once_there_was_an_answer(now: list[float]) -> None:
    patience = Patience("the study", 60)
    for _ in range(10):
        patience.wait(lost(psycopg.OperationalError("connection refused")))
        now[0] += 50
        patience.renew()
