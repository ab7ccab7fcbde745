"""Latency tables: their file, how they are built and resumed, what is predicted from them, how that is checked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dicenas.architecture import Architecture
from dicenas.cost import LatencySettings
from dicenas.cost import build as building
from dicenas.cost.build import BuildPlan, build_table, covering_networks
from dicenas.cost.check import accuracy, check_table, kendall_tau, spearman_rho
from dicenas.cost.predict import FORMS, MissingBlockError, fit_predictor
from dicenas.cost.table import (
    LatencyTable,
    NetworkLatency,
    TableMismatchError,
    block_from_dict,
    block_to_dict,
    fingerprint_of,
)
from dicenas.cost.turns import TurnTaker
from dicenas.nets.backbone import BlockSpec, get_backbone
from dicenas.space import SpaceSpec
from dicenas.space.vectorized import VectorizedSpace

SPACE = SpaceSpec(
    "shufflenetv2",
    ops=("separable_k3", "dice_k3", "skip"),
    widths=(0.1, 0.2),
    depths=((1, 2), (1,), (1,)),
    stems=("small",),
    resolutions=(16,),
    num_classes=4,
)
SMALL = dataclasses.replace(SPACE, widths=(0.1,), depths=((1,), (1,), (1,)))
SETTINGS = LatencySettings(threads=1)
QUICK = BuildPlan(contexts=1, time_limit_s=0)


def true_ms(block: BlockSpec) -> float:
    """A made-up device: what a block costs there follows from its multiply-adds, and a little from its op."""
    macs = get_backbone(SPACE.backbone).block_cost(block).macs
    return 0.01 + macs / 1e6 * (3.0 if str(block.op).startswith("dice") else 1.0)


class Device:
    """Stands in the place of a clock: networks cost the sum of their blocks, the machine drifts, 5 % are overhead."""

    def __init__(self, noise: float = 0.0) -> None:
        self.measured: list[Architecture] = []
        self.noise = noise
        self.rng = Random(0)

    def __call__(self, taker: TurnTaker, architecture: Architecture, **_: object) -> NetworkLatency:
        self.measured.append(architecture)
        drift = 1 + 0.5 * self.rng.random()
        blocks = [true_ms(block) * drift for block in get_backbone(SPACE.backbone).layout(architecture).blocks]
        noisy = [time_ms * self.rng.gauss(1, self.noise) for time_ms in blocks]
        reference = sum(map(true_ms, get_backbone(SPACE.backbone).layout(taker.reference).blocks)) * drift
        total = 1.05 * sum(noisy)
        return NetworkLatency(architecture, total, reference, tuple(noisy))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    monkeypatch.setattr(TurnTaker, "measure", lambda self, *args, **kwargs: device(self, *args, **kwargs))
    return device


@pytest.fixture
def table(device: Device, tmp_path: Path) -> LatencyTable:
    return build_table(SPACE, SETTINGS, tmp_path / "table.json", plan=BuildPlan(contexts=3))


# Building


@pytest.mark.parametrize("contexts", [1, 3])
def test_every_block_stands_in_as_many_networks_as_asked_for(contexts: int) -> None:
    networks = covering_networks(SPACE, contexts)
    assert len(set(networks)) == len(networks)
    for block in VectorizedSpace(SPACE).blocks:
        holding = sum(block in get_backbone(SPACE.backbone).layout(network).blocks for network in networks)
        assert holding >= contexts


def test_a_space_of_one_network_is_covered_by_it() -> None:
    space = SpaceSpec("shufflenetv2", ("dice_k3",), (0.1,), ((1,), (1,), (1,)), ("small",), (16,), 4)
    assert len(covering_networks(space, 5)) == 1


@pytest.mark.parametrize("settings", [SETTINGS, LatencySettings(threads=1, runtime="fused")])
def test_a_table_measured_here(settings: LatencySettings, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    seen: list[tuple[int, int]] = []
    table = build_table(SPACE, settings, path, plan=QUICK, progress=lambda done, tasks, _: seen.append((done, tasks)))
    assert set(table.blocks_ms()) == set(VectorizedSpace(SPACE).blocks)
    assert all(0 < time_ms < 1e4 for time_ms in table.blocks_ms().values())
    assert [done for done, _ in seen] == list(range(1, seen[-1][1] + 1))
    assert table.fingerprint == fingerprint_of(SPACE, settings, None)
    assert LatencyTable.load(path) == table
    assert [file.name for file in tmp_path.iterdir()] == ["table.json"]
    for network in table.networks:
        assert network.blocks_ms is not None
        assert math.fsum(network.blocks_ms) == pytest.approx(network.latency_ms)


def test_blocks_that_cannot_be_timed_within_a_network_are_timed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "runs_in_blocks", lambda settings: False)
    monkeypatch.setattr("dicenas.cost.turns.runs_in_blocks", lambda settings: False)
    monkeypatch.setattr(building, "_CALIBRATION_NETWORKS", 3)
    table = build_table(SMALL, SETTINGS, tmp_path / "table.json", plan=QUICK)
    assert set(table.isolated_ms) == set(VectorizedSpace(SMALL).blocks)
    assert all(network.blocks_ms is None for network in table.networks)
    assert LatencyTable.load(tmp_path / "table.json") == table
    assert fit_predictor(table).predict(SMALL.random(Random(0))).latency_ms > 0


def test_an_interrupted_build_measures_nothing_twice(device: Device, tmp_path: Path) -> None:
    path = tmp_path / "table.json"

    def interrupt(done: int, tasks: int, what: str) -> None:
        if done in (2, 5):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            build_table(SPACE, SETTINGS, path, progress=interrupt)
        interrupt = (lambda allowed: lambda done, tasks, what: allowed(done))(
            lambda done: (_ for _ in ()).throw(KeyboardInterrupt) if done == 5 else None
        )
    assert len(device.measured) == 5
    partial = path.with_name("table.json.partial")
    with partial.open("ab") as file:  # killed while it wrote a line
        file.write(b'{"kind": "network", "netw')
    table = build_table(SPACE, SETTINGS, path)
    assert len(device.measured) == len(set(device.measured)) == len(table.networks)
    assert not partial.exists()


def test_a_build_killed_at_any_byte_goes_on(device: Device, tmp_path: Path) -> None:
    """Whatever part of its journal reached the disk, the build takes up what is whole, and ends as it would have."""
    path = tmp_path / "table.json"
    partial = path.with_name("table.json.partial")
    kept: list[bytes] = []
    plan = BuildPlan(contexts=1)
    build_table(SMALL, SETTINGS, path, plan=plan, progress=lambda *_: kept.append(partial.read_bytes()))
    journal = kept[-1]
    whole = len(device.measured)
    ends = [place + 1 for place, byte in enumerate(journal) if byte == ord("\n")]
    # Every byte of the header and around the ends of lines; of the others every 499th.
    cuts = {*range(ends[0] + 3), *(end + shift for end in ends for shift in (-2, -1, 0)), *range(0, len(journal), 499)}
    for cut in sorted(cuts):
        partial.write_bytes(journal[:cut])
        device.measured.clear()
        table = build_table(SMALL, SETTINGS, path, plan=plan)
        assert len(device.measured) == whole - max(0, sum(end <= cut for end in ends) - 1), cut
        assert len(table.networks) == whole
        assert not partial.exists()


@pytest.mark.parametrize("line", [b"no JSON\n", b"{}\n", b'{"kind": "network", "network": {}}\n'])
def test_a_damaged_journal_is_refused(line: bytes, device: Device, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    partial = path.with_name("table.json.partial")
    kept: list[bytes] = []
    build_table(SMALL, SETTINGS, path, progress=lambda *_: kept.append(partial.read_bytes()))
    partial.write_bytes(kept[0] + line + b"\n")
    with pytest.raises(ValueError, match=r"partial, line 3: damaged .*; remove the file"):
        build_table(SMALL, SETTINGS, path)


def test_a_device_without_memory_for_any_network(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TurnTaker, "measure", fail)
    monkeypatch.setattr(TurnTaker, "measure_block", fail)
    with pytest.raises(RuntimeError, match="cpu has not the memory for any of"):
        build_table(SMALL, SETTINGS, tmp_path / "table.json")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        build_table(SMALL, SETTINGS, tmp_path)


def test_a_table_of_one_network_predicts_the_plain_sum(device: Device, tmp_path: Path) -> None:
    space = SpaceSpec("shufflenetv2", ("dice_k3",), (0.1,), ((1,), (1,), (1,)), ("small",), (16,), 4)
    table = build_table(space, SETTINGS, tmp_path / "table.json")
    predictor = fit_predictor(table)
    assert predictor.form == "block_sum"
    prediction = predictor.predict(table.networks[0].architecture)
    assert prediction.latency_ms == pytest.approx(math.fsum(table.blocks_ms().values()))
    assert math.isinf(prediction.deviation_ms)


def test_networks_without_infeasible_blocks_are_not_looked_for_for_ever(table: LatencyTable) -> None:
    space = dataclasses.replace(SPACE, depths=((1, 2), (1, 2), (1, 2)), widths=(0.1, 0.2, 0.5))
    stems = {n.blocks[0] for n in (get_backbone(SPACE.backbone).layout(a) for a in map(space.random, [Random(0)] * 50))}
    hopeless = dataclasses.replace(table, space=space, infeasible=dict.fromkeys(stems, "out of memory"))
    with pytest.raises(ValueError, match="only 0 networks were found"):
        check_table(hopeless, SETTINGS, networks=3)


def test_measurements_of_another_build_are_not_mixed_in(device: Device, tmp_path: Path) -> None:
    def interrupt(done: int, tasks: int, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_table(SPACE, SETTINGS, tmp_path / "table.json", progress=interrupt)
    with pytest.raises(ValueError, match="holds measurements for another space, device or plan"):
        build_table(SPACE, LatencySettings(threads=1, batch=2), tmp_path / "table.json")
    with pytest.raises(FileNotFoundError, match="create it first"):
        build_table(SPACE, SETTINGS, tmp_path / "missing" / "table.json")


def test_what_does_not_fit_into_memory_is_infeasible_and_the_build_goes_on(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_big(block: BlockSpec) -> bool:
        return block.op == "dice_k3" and block.out_channels == 64

    def measure(turns: TurnTaker, architecture: Architecture, *, time_limit_s: float) -> NetworkLatency:
        if any(map(is_big, get_backbone(SPACE.backbone).layout(architecture).blocks)):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return device(turns, architecture)

    def measure_block(turns: TurnTaker, module: torch.nn.Module, in_shape: tuple[int, ...]) -> tuple[float, float]:
        if any(type(m).__name__ == "DiCE" for m in module.modules()) and in_shape[0] == 64:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1.0, 1.0

    monkeypatch.setattr(TurnTaker, "measure", measure)
    monkeypatch.setattr(TurnTaker, "measure_block", measure_block)
    table = build_table(SPACE, SETTINGS, tmp_path / "table.json")
    assert table.infeasible
    # Blocks that stood beside one which could not run are not lost: they were timed elsewhere, or alone.
    assert {*table.blocks_ms(), *table.infeasible} == set(VectorizedSpace(SPACE).blocks)
    assert LatencyTable.load(tmp_path / "table.json") == table
    assert not set(table.isolated_ms) & set(dataclasses.replace(table, isolated_ms={}).blocks_ms())
    assert all(is_big(block) or block.in_channels == 64 for block in table.infeasible)
    assert set(table.infeasible.values()) == {"out of memory"}
    architecture = next(
        a for a in SPACE.enumerate() if set(table.infeasible) & set(get_backbone(SPACE.backbone).layout(a).blocks)
    )
    with pytest.raises(MissingBlockError, match="out of memory"):
        fit_predictor(table).predict(architecture)


# The file


def test_blocks_pass_through_json() -> None:
    for block in VectorizedSpace(SPACE, 97).blocks:
        assert block_from_dict(json.loads(json.dumps(block_to_dict(block)))) == block


def rewritten(path: Path, change: Callable[[Any], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["blocks"][0].update(latency_ms=1e-3), "checksum does not match"),
        (lambda data: data.update(checksum="0"), "checksum does not match"),
        (lambda data: data["networks"].pop(), "checksum does not match"),
        (lambda data: data.update(schema_version=2), "has schema version 2, this dicenas reads 1"),
        (lambda data: data.pop("schema_version"), "no latency table"),
    ],
)
def test_edited_files(change: Callable[[Any], None], message: str, table: LatencyTable, tmp_path: Path) -> None:
    rewritten(tmp_path / "table.json", change)
    with pytest.raises(ValueError, match=rf"table\.json: .*{message}"):
        LatencyTable.load(tmp_path / "table.json")


@given(st.integers(0, 10_000))
def test_a_truncated_file_is_noticed(size: int) -> None:
    text = json.dumps(TABLE.to_dict())
    cut = text[: min(size, len(text) - 1)]
    with pytest.raises(ValueError):  # noqa: PT011 (JSON's own message)
        LatencyTable.from_dict(json.loads(cut))


TABLE = LatencyTable(
    SPACE,
    fingerprint_of(SPACE, SETTINGS, None),
    next(SPACE.enumerate()),
    tuple(
        Device()(TurnTaker(next(SPACE.enumerate()), SETTINGS, None), architecture)
        for architecture in covering_networks(SPACE, 2)
    ),
)


@pytest.mark.parametrize("time_ms", [math.nan, math.inf, 0.0, -1.0])
def test_times_that_are_none(time_ms: float, tmp_path: Path) -> None:
    first, *others = TABLE.networks
    table = dataclasses.replace(TABLE, networks=(dataclasses.replace(first, latency_ms=time_ms), *others))
    table.save(tmp_path / "table.json")
    with pytest.raises(ValueError, match="is no positive number"):
        LatencyTable.load(tmp_path / "table.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device_name": "another"}, "device_name: .* here, another in the table"),
        ({"batch": 8}, "batch: 1 here, 8 in the table"),
        ({"dtype": "float16"}, "dtype: float32 here, float16 in the table"),
        ({"torch_version": "1.13.0"}, "torch_version: .* here, 1.13.0 in the table"),
        ({"space": "0"}, "space: .* here, 0 in the table"),
        ({"runtime": "eager"}, "runtime: kernels here, eager in the table"),
    ],
)
def test_tables_from_elsewhere_are_refused(change: dict[str, Any], message: str) -> None:
    wanted = fingerprint_of(SPACE, SETTINGS, None)
    assert TABLE.check(wanted) == []
    other = dataclasses.replace(TABLE, fingerprint=dataclasses.replace(wanted, **change))
    with pytest.raises(TableMismatchError, match=message):
        other.check(wanted)
    assert len(other.check(wanted, allow_mismatch=True)) == 1


def test_minor_versions_of_torch_may_differ() -> None:
    major = torch.__version__.partition(".")[0]
    wanted = fingerprint_of(SPACE, SETTINGS, None)
    assert dataclasses.replace(wanted, torch_version=f"{major}.0.1").differences(wanted) == []


# Prediction


def test_drift_of_the_machine_and_overhead_are_no_error(table: LatencyTable) -> None:
    predictor = fit_predictor(table)
    usual = table.reference_ms / sum(map(true_ms, table.blocks_of(table.reference)))
    for architecture in SPACE.enumerate():
        wanted = 1.05 * usual * sum(map(true_ms, table.blocks_of(architecture)))
        assert predictor.predict(architecture).latency_ms == pytest.approx(wanted, rel=1e-3)
    assert predictor.cross_validation[predictor.form] < 1e-3
    assert predictor.cross_validation["block_sum"] == pytest.approx(0.05 / 1.05, rel=1e-3)
    assert predictor.cross_validation["macs"] > 0.02


@pytest.mark.parametrize("form", FORMS)
def test_forms_predict_many_at_once_as_one_by_one(form: str, table: LatencyTable) -> None:
    predictor = fit_predictor(table, form)
    vectorized = VectorizedSpace(SPACE)
    rows = vectorized.random(20, torch.Generator().manual_seed(0))
    together = predictor(vectorized.sums(predictor.values)(rows))
    alone = [predictor.predict(architecture).latency_ms for architecture in vectorized.decode(rows)]
    assert together.tolist() == pytest.approx(alone)


def test_noise_shows_in_the_deviation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device = Device(noise=0.1)
    monkeypatch.setattr(TurnTaker, "measure", lambda self, *args, **kwargs: device(self, *args, **kwargs))
    table = build_table(SPACE, SETTINGS, tmp_path / "table.json", plan=BuildPlan(contexts=3))
    prediction = fit_predictor(table).predict(SPACE.random(Random(0)))
    assert 0.01 < prediction.deviation_ms / prediction.latency_ms < 0.2


def test_blocks_of_other_spaces_are_missing(table: LatencyTable) -> None:
    other = SpaceSpec("shufflenetv2", ("separable_k5",), (0.1,), ((1,), (1,), (1,)), ("small",), (16,), 4)
    with pytest.raises(MissingBlockError, match=r"separable_k5.*it was not measured"):
        fit_predictor(table).predict(next(other.enumerate()))
    with pytest.raises(ValueError, match="unknown form 'cubic'"):
        fit_predictor(table, "cubic")


# Checking


def test_a_good_table_passes_and_a_wrong_entry_is_noticed(device: Device, tmp_path: Path) -> None:
    space = dataclasses.replace(SPACE, depths=((1, 2), (1, 2), (1, 2)))
    good = build_table(space, SETTINGS, tmp_path / "table.json", plan=BuildPlan(contexts=4))
    check = check_table(good, SETTINGS, networks=20)
    assert not {network.architecture for network in check.networks} & {n.architecture for n in good.networks}
    found = check.methods["table"]
    assert (found.within_10_percent, found.within_5_percent) == (1, 1)
    assert found.kendall_tau > 0.99
    assert check.methods["macs"].median_error > found.median_error

    assert check.suspects == ()

    spoilt_block = next(block for block in good.blocks_ms() if block.kind == "unit" and block.op == "separable_k3")

    def wrong(network: NetworkLatency) -> NetworkLatency:
        assert network.blocks_ms is not None
        blocks = good.blocks_of(network.architecture)
        times = [t * 10 if b == spoilt_block else t for b, t in zip(blocks, network.blocks_ms, strict=True)]
        return dataclasses.replace(network, blocks_ms=tuple(times))

    spoilt = dataclasses.replace(good, networks=tuple(map(wrong, good.networks)))
    noticed = check_table(spoilt, SETTINGS, networks=20)
    assert [suspect.block for suspect in noticed.suspects] == [spoilt_block]
    assert noticed.suspects[0].table_ms == pytest.approx(10 * noticed.suspects[0].measured_ms)
    assert noticed.methods["block_sum"].largest_error > check.methods["block_sum"].largest_error


def test_an_entry_that_does_not_follow_from_the_measurements(table: LatencyTable, tmp_path: Path) -> None:
    def edit(data: Any) -> None:
        data["blocks"][3]["latency_ms"] *= 2
        content = {key: value for key, value in data.items() if key != "checksum"}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        data["checksum"] = hashlib.sha256(text.encode()).hexdigest()  # whoever edits may well do so

    rewritten(tmp_path / "table.json", edit)
    with pytest.raises(ValueError, match=r"the latency table gives .* its measurements"):
        LatencyTable.load(tmp_path / "table.json")


def test_check_measured_here(tmp_path: Path) -> None:
    table = build_table(SPACE, SETTINGS, tmp_path / "table.json", plan=QUICK)
    check = check_table(table, SETTINGS, networks=3, turns=2, time_limit_s=0)
    data = json.loads(json.dumps(check.to_dict()))
    assert {"within_10_percent", "within_5_percent", "kendall_tau", "macs", "block_sum", "drift"} <= set(data)
    assert {"within_10_percent", "within_5_percent", "kendall_tau"} <= set(data["macs"]) & set(data["block_sum"])
    assert len(data["networks"]) == 3
    with pytest.raises(ValueError, match="ask for fewer than 2000"):
        check_table(table, SETTINGS, networks=2000)


values = st.lists(st.integers(0, 6).map(float), min_size=2, max_size=12)


@given(st.data(), values)
def test_rank_correlations_are_scipy_s(data: st.DataObject, first: list[float]) -> None:
    second = data.draw(st.lists(st.integers(0, 6).map(float), min_size=len(first), max_size=len(first)))
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert math.isnan(kendall_tau(first, second))
        assert math.isnan(spearman_rho(first, second))
    else:
        assert kendall_tau(first, second) == pytest.approx(stats.kendalltau(first, second).statistic)
        assert spearman_rho(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)


def test_hit_rates() -> None:
    found = accuracy([1.0, 1.04, 1.08, 1.3], [1.0, 1.0, 1.0, 1.0])
    assert (found.within_5_percent, found.within_10_percent) == (0.5, 0.75)
    assert found.median_error == pytest.approx(0.06)
    assert found.largest_error == pytest.approx(0.3)
    with pytest.raises(ValueError, match="3 predictions for 2 measurements"):
        accuracy([1, 2, 3], [1, 2])
