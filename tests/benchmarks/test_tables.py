"""The tables of docs/performance.md are those of the result files, and the benchmarks write such files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import tables

MACHINE = {
    "type": "cpu", "date": "2026-01-02", "device": "a processor", "cores": 2, "cpu_capability": "AVX2", "threads": 1,
    "torch": "2.11", "load_average": 0.1, "batch": 8,
}  # fmt: skip
SHAPE = {"batch": 1, "channels": 4, "size": 3, "dtype": "float32"}


def write(path: Path, rows: list[dict[str, object]], **about: object) -> None:
    path.write_text(json.dumps({"machine": MACHINE | about, "rows": rows}), encoding="utf-8")


def test_document_holds_the_tables_of_the_results() -> None:
    for path, text in tables.documents(tables.RESULTS).items():
        document = path.read_text(encoding="utf-8")
        assert tables.replaced(document, text) == document, "python benchmarks/tables.py --write"


def test_a_document_without_marks() -> None:
    with pytest.raises(ValueError, match="End of what"):
        tables.replaced(tables.MARKS[0], "text")


def test_columns_are_those_that_were_measured(tmp_path: Path) -> None:
    rows = [{**SHAPE, "ratios": {"forward": 7.0}}, {**SHAPE, "ratios": {"forward": 5.0, "train": 3.5}}]
    write(tmp_path / "kernels-a.json", rows)
    lines = tables.tables(tmp_path).split("\n")
    assert lines[0].startswith("`kernels-a.json`: a processor, 2 cores (AVX2), 1 thread, torch 2.11, 2026-01-02")
    assert lines[2:6] == [
        "| batch, shape, dtype | DimConv | training step |",
        "|---|---:|---:|",
        "| 1, 4×3×3, float32 | 7.0 | – |",
        "| 1, 4×3×3, float32 | 5.0 | 3.5 |",
    ]


def test_native_sizes_that_are_others(tmp_path: Path) -> None:
    rows = [{**SHAPE, "native": 2, "ratios": {"forward": 7.0, "against_native": 1.5}}]
    write(tmp_path / "kernels-a.json", rows)
    lines = tables.tables(tmp_path).split("\n")
    assert lines[2] == "| batch, shape, dtype | DimConv | times native |"
    assert lines[4] == "| 1, 4×3×3 (native 2×2), float32 | 7.0 | 1.5 |"
    assert any("DimConv forward" in line and "1 thread" in line and "not measured" in line for line in lines)


def test_goals(tmp_path: Path) -> None:
    write(tmp_path / "kernels-one.json", [{**SHAPE, "ratios": {"forward": 7.0}}, {**SHAPE, "ratios": {"forward": 5.0}}])
    write(tmp_path / "kernels-two.json", [{**SHAPE, "ratios": {"forward": 8.0}}], threads=2)
    gpu = {"batch": 64, "channels": 116, "size": 28, "dtype": "float32", "us": {"kernel": 30.5, "block_kernel": 12.0}}
    write(tmp_path / "kernels-gpu.json", [{**gpu, "ratios": {"forward": 1.0}}], type="cuda", device="a GPU")
    other = {**SHAPE, "dtype": "float64", "ratios": {"forward": 1.0}}
    write(tmp_path / "networks-other.json", [other])
    write(tmp_path / "networks-net.json", [{"pair": "dicenet_1.0 compiled / shufflenet_v2_x1_0 folded", "ratio": 1.1}])
    found = {row[0]: row[1:] for row in tables.goals([tables.read(path) for path in sorted(tmp_path.glob("*"))])}
    forward = "CPU DimConv forward against eager, every shape"
    assert found[f"{forward}, 1 thread"] == [">= 6", "5.0-7.0, median 6.0: reached in 1 of 2"]
    assert found[f"{forward}, 2 threads"] == [">= 8", "8.0-8.0, median 8.0: reached"]
    pair = "CPU {} / {}, best modes"
    assert found[pair.format("dicenet_1.0", "shufflenet_v2_x1_0")] == ["<= 1.0", "1.1 (1 thr., batch 8): not reached"]
    assert found[pair.format("dicenet_1.5", "shufflenet_v2_x1_0")] == ["<= 1.2", "not measured"]
    assert found["H200 DimConv forward, 116×28×28, batch 64, float32, us"] == ["<= 31", "30.5 (a GPU)"]
    assert found["H200 fused block, 116×28×28, batch 64, float32, us"] == ["<= 18", "12.0 (a GPU)"]
    assert found["H200 dicenet_2.4 / shufflenet_v2_x1_5, graph replays"] == ["<= 1.0", "not run: no GPU"]


@pytest.mark.parametrize(
    "command",
    [
        ("kernels.py", "--shapes", "8x5", "8x7@5", "--batches", "1", "--dtypes", "float32", "float64"),
        pytest.param(
            ("networks.py", "--networks", "dicenet_1.0", "shufflenet_v2_x1_0", "--modes", "eager", "plain", "folded"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda command: command[0],
)
def test_benchmarks_write_what_the_tables_read(command: tuple[str, ...], tmp_path: Path) -> None:
    script, *arguments = command
    path = tables.ROOT / "benchmarks" / script
    name = f"{path.stem}-here.json"
    done = subprocess.run(
        [sys.executable, str(path), *arguments, "--seconds", "0", "--json", str(tmp_path / name)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = tables.tables(tmp_path)
    assert name in text
    wanted = ("1, 8×5×5, float64", "8×7×7 (native 5×5)") if script == "kernels.py" else ("dicenet_1.0 plain",)
    assert all(row in text for row in wanted)


def test_ops_write_what_the_tables_read(tmp_path: Path) -> None:
    command = ["--shapes", "8x8x5", "--only", "separable_k3", "dice_k3", "se", "--seconds", "0"]
    done = subprocess.run(
        [sys.executable, str(tables.ROOT / "benchmarks/ops.py"), *command, "--json", str(tmp_path / "ops-cpu.json")],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ops-cpu.json" not in tables.tables(tmp_path)
    text = tables.ops_tables(tmp_path)
    (compared,) = [line for line in text.splitlines() if line.startswith("| dice_k3 | ") and " / " in line][:1]
    _, rows = tables.read(tmp_path / "ops-cpu.json")
    macs = {row["candidate"]: row["macs"] for row in rows if row["stride"] == 1}
    assert compared.startswith(f"| dice_k3 | {macs['dice_k3'] / macs['separable_k3']:.2g} / ")
    assert "| separable_k3 | " in text.partition("8 to 8, 5×5, stride 1")[2]
