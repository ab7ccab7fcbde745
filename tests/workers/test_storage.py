"""Databases that do not answer: how long they are asked again."""

from __future__ import annotations

import sqlite3
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from dicenas.workers import StorageLostError
from dicenas.workers import storage as module
from dicenas.workers.storage import Patience, retrying
from dicenas.workers.worker import Worker


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


def test_a_name_without_an_address_is_a_mistake_at_the_start_alone(now: list[float]) -> None:
    def ask() -> str:
        if now[0] < 1300:
            raise lost(psycopg.OperationalError("failed to resolve host 'db': [Errno -2] Name or service not known"))
        return "found"

    with pytest.raises(StorageLostError, match="the study refuses: failed to resolve host 'db'"):
        retrying(ask, "the study", patience_s=module.SHORT_PATIENCE_S)
    assert now[0] == 1000
    assert retrying(ask, "the study") == "found"


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


def test_an_idle_worker_has_all_its_patience_each_time(now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the last trial of another worker for more than half an hour, and the database is away four times."""
    monkeypatch.setattr("dicenas.workers.worker.time", module.time)
    asked = 0

    def counts() -> dict[str, int]:
        nonlocal asked
        asked += 1
        if asked % 1000 == 0:
            raise lost(psycopg.OperationalError("connection refused"))
        return {"running": 1} if now[0] < 3000 else {"finished": 1}

    def nothing() -> None:
        pass

    board = SimpleNamespace(counts=counts, beat=nothing, leave=nothing)
    shared: Any = SimpleNamespace(board=board, recover=nothing, resolve_own=nothing)
    assert Worker(shared, lambda *_: {}, seed=0).run(1) is None
    assert asked > 4000
