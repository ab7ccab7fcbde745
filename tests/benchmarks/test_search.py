"""The comparison of ways to search, on a table that nobody trained."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from benchmarks.tabular import replay
from benchmarks.tabular.scores import Score, add, read
from benchmarks.tabular.table import RECIPE, SPACE, architectures, header, order, unit_ops
from dicenas import Architecture
from dicenas.evaluation.tabular import SCHEMA_VERSION, Training
from dicenas.nets import architecture_cost

SEARCH = Path(__file__).resolve().parents[2] / "benchmarks" / "search.py"
WORTH = {"separable_k3": 0.0, "separable_se_k3": 0.01, "dice_k3": 0.03, "skip": -0.02}
MILLISECONDS = {"separable_k3": 0.5, "separable_se_k3": 0.8, "dice_k3": 1.2, "skip": 0.0}
#: As many as it takes samplers to begin to learn, and rungs to stop some.
TRAININGS = 14


def training(architecture: Architecture, seed: int) -> Training:
    """Return what a training could have given: later stages and larger networks count more."""
    gain = sum(WORTH[op] * stage for stage, op in enumerate(unit_ops(architecture), 1))
    noise = Random(f"{architecture.hash} {seed}").gauss(0, 0.005)
    final = 0.4 + 0.05 * (architecture.image_size[0] == 24) + 0.1 * architecture.width + gain + noise
    curve = tuple(final * (1 - math.exp(-epoch)) for epoch in range(1, RECIPE.epochs + 1))
    cost = architecture_cost(architecture)
    return Training(
        architecture.hash, SPACE.sample(architecture), seed, curve, (1.5,) * RECIPE.epochs, (1.6,) * RECIPE.epochs,
        final, cost.macs, cost.params, 1.0, 1.0, "2026-01-01T00:00:00+00:00", "test",
    )  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("benchmark")
    found = {name: folder / name for name in ("table", "latency", "scores")}
    trainings = [training(architecture, seed) for architecture, seed in order()]
    lines = [header(RECIPE, "0123"), *(each.__dict__ for each in trainings)]
    found["table"].write_text("".join(json.dumps(line) + "\n" for line in lines))
    macs = {architecture.hash: architecture_cost(architecture).macs for architecture in architectures()}
    rows = [
        {
            "architecture": a.hash,
            "latency_ms": {"kernels_deployed": macs[a.hash] / 4e5 + sum(MILLISECONDS[op] for op in unit_ops(a))},
        }
        for a in architectures()
    ]
    found["latency"].write_text(json.dumps({"schema_version": SCHEMA_VERSION, "rows": rows}))
    add(
        found["scores"], {"macs": Score({key: float(value) for key, value in macs.items()}, 2 * RECIPE.epochs, 1.0, "")}
    )
    return found


@pytest.fixture(scope="module")
def benchmark_of_trainings(files: dict[str, Path]) -> replay.Benchmark:
    return replay.Benchmark(files["table"], files["latency"], read(files["scores"]))


def run(files: dict[str, Path], *arguments: str) -> subprocess.CompletedProcess[str]:
    where = [argument for name, path in files.items() for argument in (f"--{name}", str(path))]
    command = [sys.executable, str(SEARCH), *where, "--workers", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_no_method_overspends_or_trains_a_duplicate_or_an_infeasible_architecture(
    benchmark_of_trainings: replay.Benchmark,
) -> None:
    budget = TRAININGS * RECIPE.epochs
    macs = {architecture.hash: architecture_cost(architecture).macs for architecture in architectures()}
    methods = replay.methods(benchmark_of_trainings)
    assert {"random", "evolution", "predictor", "tpe, rungs", "by macs", "random, half by macs"} <= set(methods)
    for name, method in methods.items():
        trained = replay.replay(benchmark_of_trainings, method, 1, budget)
        # The score was paid for with two trainings; trainings that stop at a rung leave some for others.
        paid = 2 if method.score else 0
        assert trained[0].spent == (paid + 1) * RECIPE.epochs, name
        assert trained[-1].spent <= budget, name
        assert len(trained) >= TRAININGS - paid, name
        assert (len(trained) > TRAININGS) == bool(method.rungs), name
        assert len({each.architecture for each in trained}) == len(trained), name
        assert all(macs[each.architecture] <= replay.MAX_MACS for each in trained), name
        stopped = [each for each in trained if not each.complete]
        assert bool(stopped) == bool(method.rungs), name


def test_quality_grows_with_the_budget_up_to_the_whole_space(benchmark_of_trainings: replay.Benchmark) -> None:
    everything = len(benchmark_of_trainings.architectures) * RECIPE.epochs
    trained = replay.replay(
        benchmark_of_trainings, replay.Method(None, score="macs"), 1, everything + 2 * RECIPE.epochs
    )
    assert {each.architecture for each in trained} == set(benchmark_of_trainings.architectures)
    found = [replay.quality(benchmark_of_trainings, trained, trained[-1].spent * part // 4) for part in range(5)]
    assert found[0] == (0.0, None)
    volumes = [volume for volume, _ in found]
    assert volumes == sorted(volumes)
    assert volumes[-1] == pytest.approx(1)


def test_command_compares_with_random_search(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    done = run(files, "--quick", "--seeds", "4", "--methods", "evolution", "by macs", "--json", str(path))
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads(path.read_text())
    rows = {row["method"]: row for row in content["rows"]}
    assert set(rows) == {"random", "evolution", "by macs"}
    for name, row in rows.items():
        assert name in done.stdout
        for figure in ("hypervolume", "best_accuracy_under_bound"):
            low, high = row[figure]["interval"]
            assert low <= row[figure]["mean"] <= high
        match = row["budget_to_match_random"]
        shares = [math.inf if share is None else share for share in (match["share"], *match["interval"])]
        assert shares[1] <= shares[2]
        assert all(0 < share <= 1 or share == math.inf for share in shares)
    # It reaches its own end at its end; a little before, where the last trainings of all seeds found nothing.
    assert rows["random"]["budget_to_match_random"]["share"] > 0.85
    # One that knows the better half of what it trains needs less.
    assert rows["evolution"]["budget_to_match_random"]["share"] < rows["random"]["budget_to_match_random"]["share"]


def test_incomplete_table_is_refused_with_what_it_lacks(files: dict[str, Path], tmp_path: Path) -> None:
    lines = files["table"].read_text().splitlines(keepends=True)
    (tmp_path / "table").write_text("".join(lines[: len(architectures()) - 6]))
    done = run({**files, "table": tmp_path / "table"}, "--quick")
    assert done.returncode == 2
    assert "7 architectures were not trained yet" in done.stderr
    assert "Traceback" not in done.stderr
