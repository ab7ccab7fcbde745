"""The tabular benchmark's generator: what it has finished is kept, whenever it ends and however many it are."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.tabular import describe, latency, table, training
from benchmarks.tabular.table import SEEDS, SPACE, Recipe, Table, architectures, header, order
from dicenas.evaluation.tabular import Training, TrainingTable, read_latencies
from dicenas.nets import architecture_cost

ROOT = Path(__file__).resolve().parents[2]
#: Two steps an epoch.
TINY = Recipe(train_per_class=2, val_per_class=1, test_per_class=1, epochs=2, batch=10)
HEAD = header(TINY, "0123")

PROGRAM = """
import sys
from pathlib import Path
from benchmarks.tabular import training
from benchmarks.tabular.table import Recipe
folder, path, limit = sys.argv[1:]
recipe = Recipe(train_per_class=2, val_per_class=1, test_per_class=1, epochs=2, batch=10)
training.run(Path(path), Path(folder), limit=int(limit), recipe=recipe)
"""


def fake(number: int) -> Training:
    """Return the training in this place of the order, with accuracies that nobody measured."""
    architecture, seed = order()[number]
    cost = architecture_cost(architecture)
    curve = (0.1, 0.2 + (number * 7919 % 97) / 200)
    return Training(
        architecture.hash, SPACE.sample(architecture), seed, curve, curve, curve, curve[1], cost.macs, cost.params, 1.0,
        1.0, "2026-01-01T00:00:00+00:00", "test",
    )  # fmt: skip


def test_space_has_every_op_in_every_stage() -> None:
    found = architectures()
    assert len({architecture.hash for architecture in found}) == len(found) >= 200
    for stage in range(3):
        ops = [table.unit_ops(architecture)[stage] for architecture in found]
        assert {ops.count(op) for op in SPACE.ops} == {len(found) // len(SPACE.ops)}
    # Both halves of a front's trade-off differ.
    assert len({architecture_cost(architecture).macs for architecture in found}) > len(found) // 2


def test_order_holds_every_training_once_and_one_seed_after_the_other() -> None:
    keys = [(architecture.hash, seed) for architecture, seed in order()]
    assert len(set(keys)) == len(keys) == len(SEEDS) * len(architectures())
    assert [seed for _, seed in keys] == sorted(seed for _, seed in keys)
    assert [a for a, _ in order()[: len(architectures())]] != list(architectures())


def test_file_gives_what_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    written = Table(path, HEAD)
    assert written.trainings() == {}
    assert all(written.append(fake(number)) for number in range(3))
    again = TrainingTable(path)
    assert again.header == HEAD
    assert list(again.trainings.values()) == [fake(number) for number in range(3)]


def test_no_training_stands_in_the_file_twice(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    assert Table(path, HEAD).append(fake(0))
    assert not Table(path, HEAD).append(fake(0))
    assert len(path.read_text().splitlines()) == 2
    with path.open("a") as file:
        file.write(path.read_text().splitlines()[-1] + "\n")
    with pytest.raises(ValueError, match=r"table\.jsonl, line 3: .* is there twice"):
        Table(path, HEAD)


@pytest.mark.parametrize("whole_lines", [0, 1, 3])
def test_torn_last_line_is_dropped_and_overwritten(tmp_path: Path, whole_lines: int) -> None:
    path = tmp_path / "table.jsonl"
    complete = Table(path, HEAD)
    for number in range(3):
        complete.append(fake(number))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:whole_lines]) + lines[whole_lines][:-1])
    torn = Table(path, HEAD)
    assert len(torn.trainings()) == max(whole_lines - 1, 0)
    for number in range(3):
        torn.append(fake(number))
    assert Table(path, HEAD).trainings() == {fake(n).key: fake(n) for n in range(3)}


def test_training_that_would_damage_the_file_is_refused(tmp_path: Path) -> None:
    table = Table(tmp_path / "table.jsonl", HEAD)
    table.append(fake(0))
    before = table.path.read_bytes()
    with pytest.raises(ValueError, match="a loss is not finite"):
        table.append(dataclasses.replace(fake(1), val_loss=(0.1, float("nan"))))
    assert table.path.read_bytes() == before


def test_file_of_another_recipe_or_dataset_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    Table(path, HEAD).append(fake(0))
    before = path.read_bytes()
    for other in (header(TINY, "4567"), header(dataclasses.replace(TINY, learning_rate=0.3), "0123")):
        with pytest.raises(ValueError, match=r"of another (dataset|recipe)"):
            Table(path, other)
    assert path.read_bytes() == before


def test_killed_and_parallel_generators_repeat_nothing(reference: Path, tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    command = [sys.executable, "-c", PROGRAM, str(reference / "data"), str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(limit: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, str(limit)], cwd=tmp_path, env=environment)

    both = [start(99), start(3)]
    deadline = time.monotonic() + 600
    while not path.exists() or len(path.read_bytes().splitlines()) < 4:
        assert time.monotonic() < deadline, "no training was finished"
        time.sleep(0.02)
    both[0].send_signal(signal.SIGKILL)
    assert both[0].wait() == -signal.SIGKILL
    assert both[1].wait(600) == 0
    with path.open("ab") as file:
        file.write(b'{"architecture": "torn')
    finished = TrainingTable(path).trainings
    recipe = Recipe(**TrainingTable(path).header["recipe"])
    training.run(path, reference / "data", limit=2, recipe=recipe)
    after = TrainingTable(path).trainings
    assert len(after) == len(finished) + 2
    assert {key: after[key] for key in finished} == finished
    # Nothing was left out between: the killed one's claim ended with it.
    assert [(a.hash, seed) for a, seed in order()[: len(after)]] == sorted(
        after, key=[(a.hash, seed) for a, seed in order()].index
    )


def test_training_is_reproduced_to_the_bit(reference: Path, tmp_path: Path) -> None:
    results = []
    for name in ("first", "second"):
        path = tmp_path / f"{name}.jsonl"
        training.run(path, reference / "data", limit=1, recipe=TINY)
        (result,) = TrainingTable(path).trainings.values()
        results.append((result.key, result.val_loss, result.train_loss, result.test_accuracy))
    assert results[0] == results[1]


def test_stop_file_ends_before_the_next_training(reference: Path, tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    training.run(tmp_path / "table.jsonl", reference / "data", tmp_path / "stop", recipe=TINY)
    assert not (tmp_path / "table.jsonl").exists()


def test_figures_of_a_part_of_the_table() -> None:
    first = range(len(architectures()))
    trainings = {fake(number).key: fake(number) for number in [*first[:51], *(len(first) + i for i in first[:50])]}
    found = describe.figures(trainings, {})
    assert (found["trainings"], found["architectures"]) == (101, 50)
    for front in found["pareto"].values():
        for share in front["share_by_stage"]:
            assert sum(share.values()) == pytest.approx(1, abs=0.01)
        accuracies = [point["accuracy"] for point in front["points"]]
        assert accuracies == sorted(accuracies, reverse=True)
    assert set(found["pareto"]) == {"macs", "params"}
    assert -1 <= found["noise"]["tau_between_seeds_val"] <= 1


def test_latencies_are_written_for_every_runtime_and_size(tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    latency.run(path, sizes=["native", "deployed"], runtimes=["eager", "fused"], rounds=2, limit=2)
    found = read_latencies(path)
    assert list(found) == [architecture.hash for architecture in architectures()[:2]]
    for times in found.values():
        assert set(times) == {"eager_native", "fused_native", "eager_deployed", "fused_deployed"}
        assert all(value > 0 for value in times.values())
    with pytest.raises(ValueError, match="unknown runtime 'fast'"):
        latency.measure(architectures()[:1], "fast", 1)
