"""Replaying finished trainings: files that are whole, torn, damaged, or of another form."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dicenas.evaluation import StopEvaluation, TabularConfig, TabularEvaluator, TrainingTable, make_evaluator
from dicenas.evaluation.tabular import SCHEMA_VERSION
from dicenas.nets import architecture_cost
from dicenas.space import SpaceSpec

SPACE = SpaceSpec(
    "shufflenetv2",
    ops=("separable_k3", "dice_k3", "skip"),
    widths=(0.1,),
    depths=((1,), (1,), (1,)),
    stems=("small",),
    resolutions=(12,),
    num_classes=10,
    block_ops={f"s{stage}_b0": ("separable_k3",) for stage in (1, 2, 3)},
)
ARCHITECTURES = list(SPACE.enumerate())
HEADER = {
    "schema_version": SCHEMA_VERSION,
    "space": SPACE.to_dict(),
    "seeds": [0, 1],
    "recipe": {"epochs": 3, "batch": 50},
    "dataset": {"name": "cifar10"},
}


def line(number: int, seed: int, **changes: Any) -> dict[str, Any]:
    """A training of architecture ``number`` whose accuracies grow with the epoch, the number and the seed."""
    architecture = ARCHITECTURES[number]
    cost = architecture_cost(architecture)
    return {
        "architecture": architecture.hash,
        "sample": SPACE.sample(architecture),
        "seed": seed,
        "val_accuracy": [0.1 * epoch + 0.01 * number + 0.002 * seed for epoch in (1, 2, 3)],
        "val_loss": [2.0, 1.5, 1.0 + seed],
        "train_loss": [2.1, 1.6, 1.1],
        "test_accuracy": 0.3 + 0.01 * number,
        "macs": cost.macs,
        "params": cost.params,
        "cpu_seconds": 10.0 + seed,
        "wall_seconds": 20.0,
        "finished": "2026-01-01T00:00:00+00:00",
        "origin": "test",
        **changes,
    }


def write(path: Path, *lines: Any, header: Any = HEADER) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in (header, *lines)), encoding="utf-8")
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """All architectures with seed 0, all but the last with seed 1."""
    last = len(ARCHITECTURES) - 1
    return write(
        tmp_path / "table.jsonl",
        *(line(number, seed) for number in range(last + 1) for seed in (0, 1) if (number, seed) != (last, 1)),
    )


@pytest.fixture
def latencies(tmp_path: Path) -> Path:
    rows = [
        {"architecture": a.hash, "latency_ms": {"kernels_native": 1.0 + number, "fused_native": 0.5}}
        for number, a in enumerate(ARCHITECTURES)
    ]
    path = tmp_path / "latency.json"
    path.write_text(json.dumps({"schema_version": SCHEMA_VERSION, "rows": rows}), encoding="utf-8")
    return path


def ignore(step: int, metrics: Mapping[str, float]) -> None:
    """Takes a report."""


def test_a_training_is_replayed_epoch_by_epoch(table: Path) -> None:
    evaluator = TabularEvaluator(table)
    assert evaluator.space == SPACE
    assert evaluator.epochs == 3
    assert not evaluator.trains_network
    reported: list[tuple[int, Mapping[str, float]]] = []
    metrics = evaluator(ARCHITECTURES[4], None, lambda step, metrics: reported.append((step, metrics)))
    # The mean of both seeds.
    assert [step for step, _ in reported] == [1, 2, 3]
    assert [step["accuracy"] for _, step in reported] == pytest.approx([0.141, 0.241, 0.341])
    assert reported[-1][1] == {"accuracy": metrics["accuracy"], "loss": 1.5, "train_loss": pytest.approx(1.1)}
    assert metrics == {
        "accuracy": pytest.approx(0.341),
        "loss": 1.5,
        "test_accuracy": pytest.approx(0.34),
        "train_seconds": 10.5,
        "epochs": 3,
    }
    assert TabularEvaluator(table, training_seed=0)(ARCHITECTURES[4], None, ignore)["accuracy"] == pytest.approx(0.34)


def test_a_report_that_stops_a_trial_is_heard(table: Path) -> None:
    steps = []

    def report(step: int, metrics: Mapping[str, float]) -> None:
        steps.append(step)
        if step == 2:
            raise StopEvaluation

    with pytest.raises(StopEvaluation):
        TabularEvaluator(table)(ARCHITECTURES[0], None, report)
    assert steps == [1, 2]


def test_costs_are_those_of_the_files(table: Path, latencies: Path) -> None:
    assert set(TabularEvaluator(table).costs) == {"macs", "params"}
    costs = TabularEvaluator(table, latency=latencies).costs
    for number, architecture in enumerate(ARCHITECTURES[:-1]):
        found = {name: cost(architecture) for name, cost in costs.items()}
        cost = architecture_cost(architecture)
        assert found == {"macs": cost.macs, "params": cost.params, "latency_ms": 1.0 + number}
    fused = TabularEvaluator(table, latency=latencies, latency_column="fused_native").costs
    assert fused["latency_ms"](ARCHITECTURES[0]) == 0.5


def test_architectures_that_are_not_in_the_table(table: Path) -> None:
    both, first = TabularEvaluator(table), TabularEvaluator(table, training_seed=0)
    last = ARCHITECTURES[-1]
    with pytest.raises(ValueError, match=f"no training of architecture {last.hash} with seeds 0 and 1$"):
        both(last, None, ignore)
    assert first(last, None, ignore)["accuracy"] > 0
    assert both.table.architectures() == ARCHITECTURES[:-1]
    other = last.replace(num_classes=3)
    for ask in (lambda: first(other, None, ignore), lambda: first.costs["macs"](other)):
        with pytest.raises(ValueError, match=r"no point of the table's shufflenetv2 space"):
            ask()


def test_a_torn_last_line_is_passed_over(table: Path) -> None:
    whole = TrainingTable(table).trainings
    content = table.read_bytes()
    lines = content.splitlines(keepends=True)
    for cut in (1, len(lines[-1]) // 2, len(lines[-1]) - 1):
        table.write_bytes(content[:-cut])
        assert list(TrainingTable(table).trainings) == list(whole)[:-1]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([line(0, 0), line(0, 0)], "line 3: architecture .* with seed 0 is there twice"),
        ([line(0, 2)], r"line 2: seed 2 is none of \[0, 1\]"),
        ([line(0, 0, architecture="0" * 16)], "line 2: .* is not architecture 0000"),
        ([line(0, 0, sample={"s1_b1": "dice_k3"})], "line 2: sample lacks"),
        ([line(0, 0, val_accuracy=[0.1, 0.2])], r"line 2: \[2, 3, 3\] values in the curves, expected 3 epochs"),
        ([line(0, 0, val_accuracy=[0.1, 0.2, 1.2])], "line 2: an accuracy is outside"),
        ([line(0, 0, val_loss=[1.0, float("nan"), 1.0])], "line 2: a loss is not finite"),
        ([line(0, 0, extra=1)], "line 2: .*unexpected keyword argument 'extra'"),
        ([{key: value for key, value in line(0, 0).items() if key != "val_loss"}], "line 2: lacks 'val_loss'"),
        ([line(0, 0), [1]], "line 3: "),
        ([], "holds no architecture that was trained with seeds 0 and 1"),
    ],
)
def test_damaged_tables_name_the_line(tmp_path: Path, lines: list[Any], said: str) -> None:
    path = write(tmp_path / "table.jsonl", *lines)
    with pytest.raises(ValueError, match=said) as caught:
        TabularEvaluator(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (
            {**HEADER, "schema_version": 1},
            f"line 1: is not .* of schema version {SCHEMA_VERSION}",
        ),
        ([HEADER], "line 1: is not the first line"),
        ({**HEADER, "space": {**HEADER["space"], "ops": ["dise"]}}, "line 1: .*did you mean 'dice'"),
        ({**HEADER, "recipe": {}}, "line 1: lacks 'epochs'"),
        ({**HEADER, "seeds": None}, "line 1: "),
    ],
)
def test_tables_of_another_form(tmp_path: Path, header: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TrainingTable(write(tmp_path / "table.jsonl", line(0, 0), header=header))


def test_files_that_are_no_tables(tmp_path: Path, table: Path) -> None:
    path = tmp_path / "none.jsonl"
    with pytest.raises(ValueError, match=r"none.jsonl: cannot be read"):
        TrainingTable(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="has no whole line"):
        TrainingTable(path)
    path.write_bytes(b"\xff\n")
    with pytest.raises(ValueError, match="cannot be read"):
        TrainingTable(path)
    path.write_bytes(table.read_bytes().replace(b'"seed": 1', b'"seed": :', 1))
    with pytest.raises(ValueError, match="line 3: Expecting value"):
        TrainingTable(path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda content: content["rows"].pop(0), r"lacks architecture \w+, and with it the column 'kernels_native'"),
        (lambda content: content["rows"][3]["latency_ms"].pop("kernels_native"), "lacks the column 'kernels_native'"),
        (lambda content: content.pop("rows"), "is no file of latencies"),
        (lambda content: content.update(schema_version=1), "has schema version 1"),
    ],
)
def test_latencies_that_do_not_suit(
    table: Path, latencies: Path, spoil: Callable[[dict[str, Any]], None], said: str
) -> None:
    content = json.loads(latencies.read_text(encoding="utf-8"))
    spoil(content)
    latencies.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=said):
        TabularEvaluator(table, latency=latencies)


def test_columns_and_seeds_that_are_not_there(table: Path, latencies: Path) -> None:
    with pytest.raises(ValueError, match=r"did you mean 'fused_native'\? \(columns: fused_native, kernels_native\)"):
        TabularEvaluator(table, latency=latencies, latency_column="fused_natve")
    with pytest.raises(ValueError, match=r"no trainings with seed 7; its seeds are \[0, 1\]"):
        TabularEvaluator(table, training_seed=7)
    with pytest.raises(ValueError, match="is no file of latencies"):
        TabularEvaluator(table, latency=table)


def test_made_from_its_description(table: Path, latencies: Path) -> None:
    config = TabularConfig(str(table), latency=str(latencies), latency_column="fused_native", training_seed=1)
    evaluator = make_evaluator(config, SPACE)
    assert evaluator.costs["latency_ms"](ARCHITECTURES[0]) == 0.5
    with pytest.raises(ValueError, match="is a table of another space"):
        make_evaluator(config, SpaceSpec("shufflenetv2"))
