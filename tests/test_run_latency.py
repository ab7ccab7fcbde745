"""Searches whose latencies come from a table: built by the run, named by the configuration, or refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from dicenas.architecture import Architecture
from dicenas.config import LatencyConfig
from dicenas.cost import LatencySettings
from dicenas.cost.build import BuildPlan, build_table
from dicenas.cost.predict import fit_predictor
from dicenas.cost.table import LatencyTable, TableMismatchError
from dicenas.nets import architecture_cost
from dicenas.report.latency_notes import latency_warnings
from dicenas.report.summary import RunSummary
from dicenas.run_latency import peak_memory
from dicenas.search import SearchResult, search
from dicenas.space import SpaceSpec
from dicenas.space.vectorized import VectorizedSpace

SPACE = SpaceSpec(
    "shufflenetv2",
    ops=("separable_k3", "dice_k3"),
    widths=(0.1, 0.2),
    depths=((1,), (1,), (1,)),
    stems=("small",),
    resolutions=(16,),
    num_classes=4,
)
HERE = LatencyConfig(input_size=None)


@pytest.fixture(scope="module")
def table_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "table.json"
    build_table(SPACE, LatencySettings(threads=1), path, plan=BuildPlan(contexts=3, time_limit_s=0))
    return path


def evaluate(architecture: Architecture, net: nn.Module, report: Any) -> dict[str, float]:
    return {"accuracy": 1 - 1e5 / architecture_cost(architecture).macs}


def run(out: Path, latency: LatencyConfig, **changes: Any) -> SearchResult:
    return search(SPACE, evaluate, latency=latency, **{"trials": 4, "name": "run", "out": out, **changes})


def test_a_search_predicts_from_a_table_and_measures_its_front(table_path: Path, tmp_path: Path) -> None:
    result = run(tmp_path, dataclasses.replace(HERE, table=str(table_path)))
    predictor = fit_predictor(LatencyTable.load(table_path))
    for trial in result.run.trials():
        prediction = predictor.predict(trial.architecture)
        assert trial.metrics["latency_ms"] == prediction.latency_ms
        assert trial.metrics["latency_deviation_ms"] == prediction.deviation_ms
    for trial in result.front:
        assert trial.metrics["latency_measured_ms"] > 0
        assert trial.metrics["latency_eager_ms"] > 0
    report = result.run.report_path.read_text()
    assert "Latency, predicted, kernels" in report
    assert "Latency, measured whole" in report


def test_a_run_builds_its_own_table_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicenas.cost.build.BuildPlan", lambda: BuildPlan(contexts=1, time_limit_s=0))
    config = dataclasses.replace(HERE, table="build")
    result = run(tmp_path, config, constraints={"latency_ms": 1e3})
    built = (tmp_path / "run" / "latency.json").read_bytes()
    assert LatencyTable.load(tmp_path / "run" / "latency.json").space == SPACE
    # Where each block stands in one network alone, no network can be held out: nothing is claimed of the deviation.
    assert not any("latency_deviation_ms" in trial.metrics for trial in result.run.trials())
    assert run(tmp_path, config, constraints={"latency_ms": 1e3}, trials=5).new_trials == 1
    assert (tmp_path / "run" / "latency.json").read_bytes() == built


def test_a_run_that_builds_its_table_checks_its_other_bounds_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicenas.cost.build.BuildPlan", lambda: BuildPlan(contexts=1, time_limit_s=0))
    config = dataclasses.replace(HERE, table="build")
    with pytest.raises(ValueError, match="meets all constraints: peak_memory_mb <= 1e-06"):
        run(tmp_path, config, constraints={"peak_memory_mb": 1e-6})
    assert not (tmp_path / "run").exists()
    # Resolution is chosen too: the table holds the blocks at both.
    space = dataclasses.replace(SPACE, resolutions=(16, 24), widths=(0.1,))
    objectives = ("accuracy", "latency_ms", "peak_memory_mb")
    bounds = {"peak_memory_mb": 0.1}
    result = search(space, evaluate, objectives, bounds, trials=6, latency=config, name="run", out=tmp_path)
    trials = result.run.trials()
    assert len({trial.architecture.image_size for trial in trials}) == 2
    assert all(0 < trial.metrics["peak_memory_mb"] <= 0.1 for trial in trials)
    table = LatencyTable.load(tmp_path / "run" / "latency.json")
    assert set(table.blocks_ms()) == set(VectorizedSpace(space).blocks)


def test_tables_that_do_not_fit_are_refused_before_anything_is_written(table_path: Path, tmp_path: Path) -> None:
    named = dataclasses.replace(HERE, table=str(table_path))
    with pytest.raises(TableMismatchError, match="batch: 2 here, 1 in the table"):
        run(tmp_path, dataclasses.replace(named, batch=2))
    with pytest.raises(TableMismatchError, match="input_size: 32 here, None in the table"):
        run(tmp_path, dataclasses.replace(named, input_size=32))
    with pytest.raises(FileNotFoundError, match="dicenas latency build makes one"):
        run(tmp_path, dataclasses.replace(named, table=str(tmp_path / "no.json")))
    assert list(tmp_path.iterdir()) == []
    allowed = dataclasses.replace(named, batch=2, allow_mismatch=True)
    assert len(run(tmp_path, allowed).run.trials()) == 4


def test_blocks_that_the_device_cannot_run_are_passed_over_and_missing_ones_refused(
    table_path: Path, tmp_path: Path
) -> None:
    table = LatencyTable.load(table_path)
    gone = next(block for block in table.blocks_ms() if block.kind == "unit" and block.op == "dice_k3")
    networks = tuple(n for n in table.networks if gone not in table.blocks_of(n.architecture))
    without = dataclasses.replace(table, networks=networks, isolated_ms={**table.blocks_ms()})
    del without.isolated_ms[gone]
    without.save(tmp_path / "missing.json")
    with pytest.raises(ValueError, match=r"lacks 1 blocks of this space, such as BlockSpec.*dice_k3"):
        run(tmp_path, dataclasses.replace(HERE, table=str(tmp_path / "missing.json")))
    assert not (tmp_path / "run").exists()
    dataclasses.replace(without, infeasible={gone: "out of memory"}).save(tmp_path / "infeasible.json")
    result = run(tmp_path, dataclasses.replace(HERE, table=str(tmp_path / "infeasible.json")), trials=12)
    architectures = [trial.architecture for trial in result.run.trials()]
    assert len(architectures) == 12
    assert not any(gone in table.blocks_of(architecture) for architecture in architectures)


def test_a_table_of_a_device_that_is_not_here(table_path: Path, tmp_path: Path) -> None:
    """A table that was measured on a GPU steers a search on any machine."""
    table = LatencyTable.load(table_path)
    elsewhere = dataclasses.replace(table.fingerprint, device="cuda", device_name="a GPU", native_kernels=True)
    dataclasses.replace(table, fingerprint=elsewhere).save(tmp_path / "gpu.json")
    result = run(tmp_path, dataclasses.replace(HERE, device="cuda", table=str(tmp_path / "gpu.json")))
    assert len(result.run.trials()) == 4
    assert not any("latency_measured_ms" in trial.metrics for trial in result.front)
    halves = dataclasses.replace(HERE, device="cuda", table=str(tmp_path / "gpu.json"), dtype="float16")
    with pytest.raises(TableMismatchError, match="dtype: float16 here"):
        run(tmp_path, halves, name="other")


def test_a_report_warns_of_predictions_that_are_off_and_of_other_rankings(table_path: Path, tmp_path: Path) -> None:
    result = run(tmp_path, dataclasses.replace(HERE, table=str(table_path)), trials=8)
    front = result.front
    assert len(front) > 1
    for place, trial in enumerate(front):
        measured = {"latency_measured_ms": trial.metrics["latency_ms"] * 1.05, "latency_eager_ms": 1.0 + place}
        measured["latency_measured_ms"] *= 2 if place == 0 else 1
        result.run.write_trial(dataclasses.replace(trial, metrics={**trial.metrics, **measured}))
    warnings = list(latency_warnings(RunSummary.read(result.run)))
    assert warnings[0].startswith(f"Trial #{front[0].number} was predicted to take ")
    assert "(-52%)" in warnings[0]
    assert warnings[1].startswith("Without native kernels the networks of the front rank otherwise: by kernels #")
    assert len(warnings) == 2
    json.dumps(warnings)


def test_peak_memory_is_that_of_the_deployed_batch() -> None:
    architecture = next(SPACE.enumerate())
    one, eight = (peak_memory(dataclasses.replace(HERE, batch=batch))(architecture) for batch in (1, 8))
    assert eight == pytest.approx(8 * one, rel=0.02)
    assert peak_memory(dataclasses.replace(HERE, dtype="float64"))(architecture) == pytest.approx(2 * one, rel=0.02)
    assert peak_memory(dataclasses.replace(HERE, input_size=32))(architecture) > 2 * one
    assert peak_memory(lambda architecture: 1.0)(architecture) == one
