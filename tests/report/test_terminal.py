from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from dicenas.pareto import Direction
from dicenas.report import print_front, print_table
from dicenas.runs import RunFolder

OBJECTIVES: dict[str, Direction] = {"accuracy": "maximize", "latency_ms": "minimize"}


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_columns_are_aligned() -> None:
    file = io.StringIO()
    print_table(["op", "macs"], [["dice", "5"], ["separable", "1,234"]], align="lr", title="Ops", file=file)
    assert file.getvalue().splitlines() == [
        "Ops",
        "op          macs",
        "---------  -----",
        "dice           5",
        "separable  1,234",
    ]


def test_the_front_has_a_row_for_each_trial(write_run: Callable[..., RunFolder], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", OBJECTIVES, 12)
    front = run.front(OBJECTIVES)
    file = io.StringIO()
    print_front(front, OBJECTIVES, file=file)
    title, head, _, *rows = file.getvalue().splitlines()
    assert title == f"Pareto front: {len(front)} trials"
    assert "Accuracy (%) ↑" in head
    assert "Latency (ms) ↓" in head
    assert [int(row.split()[0]) for row in rows] == [trial.number for trial in front]


def test_markup_of_the_screen_is_not_taken_from_texts() -> None:
    file = Screen()
    print_table(["a"], [["[bold]x[/bold]"]], align="l", file=file)
    assert "[bold]x[/bold]" in file.getvalue()
