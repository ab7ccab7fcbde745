"""Claims on architectures: one worker each, within the budget, given back and taken over."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from dicenas.evaluation import StopEvaluation
from dicenas.strategies import Proposal, SuccessiveHalving
from dicenas.workers import board as module
from dicenas.workers.board import Board, BudgetSpentError
from dicenas.workers.worker import Worker


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    return sa.create_engine(f"sqlite:///{tmp_path / 'study.db'}", connect_args={"timeout": 60})


def worker(engine: sa.Engine, trials: int | None = None) -> Board:
    board = Board(engine, "study", trials)
    board.register()
    return board


def test_one_of_many_gets_an_architecture(engine: sa.Engine) -> None:
    boards = [worker(engine) for _ in range(4)]
    answers: list[int | None] = []

    def claim(number: int) -> None:
        answers.append(boards[number].claim("abc", number))

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count(None) == 1
    [winner] = {answer for answer in answers if answer is not None}
    [claim_] = boards[0].running()
    assert (claim_.trial, claim_.worker) == (winner, boards[winner].worker)
    assert boards[winner].claim("abc", winner) is None  # asked again, as after a lost answer


def test_no_more_is_claimed_than_the_study_may_have(engine: sa.Engine) -> None:
    board = worker(engine, trials=2)
    assert board.claim("a", 0) is board.claim("b", 1) is None
    with pytest.raises(BudgetSpentError, match="no room for trial 2") as raised:
        board.claim("c", 2)
    assert raised.value.number == 2
    board.release("a")
    assert board.claim("c", 2) is None
    board.finish("c", 2)
    board.release("c")  # too late: it is finished
    assert board.counts() == {"free": 1, "running": 1, "finished": 1}
    assert board.finished() == {"c"}


def test_what_is_given_back_can_be_claimed_again_and_its_deaths_are_counted(engine: sa.Engine) -> None:
    first, second = worker(engine), worker(engine)
    first.claim("a", 0)
    first.release("a", died=True)
    assert second.claim("a", 5) is None
    [claim] = second.running()
    assert (claim.trial, claim.worker, claim.deaths) == (5, second.worker, 1)


def test_the_claim_of_a_worker_that_is_gone_has_one_heir(engine: sa.Engine) -> None:
    gone, *heirs = (worker(engine) for _ in range(3))
    gone.claim("a", 0)
    [claim] = heirs[0].running()
    assert [heir.take_over(claim) for heir in heirs] == [True, False]


def test_a_worker_lives_while_its_process_does(engine: sa.Engine) -> None:
    board = worker(engine)
    [row] = board.workers()
    assert (row.pid, board.is_gone(row)) == (os.getpid(), False)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    with engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE dicenas_workers SET pid = {pid}"))
    [row] = board.workers()
    assert board.is_gone(row)


def test_a_worker_elsewhere_is_gone_after_a_minute_of_silence(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    board, other = worker(engine), worker(engine)
    with engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE dicenas_workers SET machine = 'elsewhere' WHERE id = {other.worker}"))

    def gone_after(seconds: int, *, away: bool = False) -> bool:
        for _ in range(seconds):
            now[0] += 1
            if not away:
                board.beat()
        return board.is_gone(board.workers()[-1])

    assert not gone_after(0)
    assert not gone_after(50)
    other.beat()
    assert not gone_after(50)
    assert not gone_after(50)
    # While the database was away, nobody could say anything.
    assert not gone_after(600, away=True)
    assert not gone_after(1)
    assert not gone_after(50)
    assert gone_after(11)


def test_reports_are_read_by_all(engine: sa.Engine) -> None:
    first, second = worker(engine), worker(engine)
    first.report(0, 1, {"accuracy": 0.5})
    second.report(1, 1, {"accuracy": float("nan")})
    [mine, (trial, step, metrics)] = first.reports()
    assert mine == (0, 1, {"accuracy": 0.5})
    assert (trial, step) == (1, 1)
    assert math.isnan(metrics["accuracy"])
    first.forget(0)
    assert [trial for trial, _, _ in second.reports()] == [1]


def test_rungs_know_nothing_of_trials_that_were_killed(engine: sa.Engine) -> None:
    killed, board = worker(engine), worker(engine)
    rungs = SuccessiveHalving((1,), 2, ("accuracy",))
    at_work = Worker(SimpleNamespace(board=board), lambda *arguments: {}, 0, rungs=rungs)  # type: ignore[arg-type]

    def reaches(trial: int, accuracy: float) -> None:
        at_work._at_rung(rungs, Proposal(trial, {}, ""), 1, {"accuracy": accuracy})

    killed.report(0, 1, {"accuracy": 0.9})
    with pytest.raises(StopEvaluation, match="trial 1 is not among the best at step 1"):
        reaches(1, 0.7)
    board.forget(0)  # as whoever proposes its architecture again does
    reaches(2, 0.8)
