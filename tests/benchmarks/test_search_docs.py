"""docs/search.md says what the files of results say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "search.md").read_text(encoding="utf-8")
SEARCH = json.loads((ROOT / "benchmarks" / "results" / "search.json").read_text(encoding="utf-8"))
STATISTICS = json.loads((ROOT / "benchmarks" / "tabular" / "statistics.json").read_text(encoding="utf-8"))


def table(head: str) -> dict[str, list[str]]:
    """Return the rows of the table with this head, by their first cell."""
    _, _, rest = TEXT.partition(f"| {head} |")
    assert rest
    rows = re.match(r".*\n\|[-|]+\n((?:\|.*\n)+)", rest)
    assert rows is not None
    cells = [[cell.strip().replace("`", "") for cell in row.strip("|\n").split("|")] for row in rows[1].splitlines()]
    return {first: others for first, *others in cells}


def test_what_ways_find_for_their_budget() -> None:
    def interval(bounds: list[float | None], digits: int, scale: float) -> str:
        return ", ".join("never" if bound is None else f"{scale * bound:.{digits}f}" for bound in bounds)

    rows = {row["method"]: row for row in SEARCH["rows"]}
    for way, (budget, volume) in table("way").items():
        row = rows[way]
        match, found = row["budget_to_match_random"], row["hypervolume"]
        assert budget == f"{match['share']:.2f} [{interval(match['interval'], 2, 1)}]"
        assert volume == f"{100 * found['mean']:.1f} [{interval(found['interval'], 1, 100)}]"
    assert SEARCH["machine"]["seeds"] == [1000, 1029]


def test_how_scores_order_accuracies() -> None:
    taus = SEARCH["machine"]["rank_correlation"]
    for name, (tau,) in table("score").items():
        key = re.sub(r"accuracy after epoch (\d), other seed", r"epoch \1, other seed", name)
        assert tau == f"{taus[key.replace('accuracy after the last epoch', 'epoch 6')]['all']:.3f}"


@pytest.mark.parametrize("op", ["dice_k3", "separable_se_k3", "skip"])
def test_what_ops_gain(op: str) -> None:
    for cell, effect in zip(table("op")[op], STATISTICS["op_effect"], strict=True):
        assert cell == f"{100 * effect[op]:+.2f} ({100 * effect[f'{op}_standard_error']:.2f})"


def test_how_often_dice_is_on_the_front() -> None:
    names = {"multiply-adds": "macs", "parameters": "params"}
    for against, cells in table("accuracy against").items():
        name = names.get(against, re.sub(r"latency at deployed size, (\w+)", r"latency_\1_deployed_ms", against))
        front: dict[str, Any] = STATISTICS["pareto"][name]
        assert cells == [str(front["size"]), f"{100 * front['with_dice_anywhere']:.0f} %"]
    added = [
        STATISTICS["op_cost"][f"latency_{runtime}_deployed_ms"]["dice_k3"] for runtime in ("eager", "kernels", "fused")
    ]
    assert re.findall(r"([\d.]+) %", TEXT[TEXT.index("In eager PyTorch a DiCE unit adds") :]) == [
        f"{abs(100 * share):.1f}" for share in added
    ]
