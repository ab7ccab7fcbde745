"""``dicenas latency``: building, showing and checking a table, and what it says of bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dicenas.cli import main
from dicenas.cost import LatencySettings
from dicenas.cost.build import BuildPlan, build_table
from dicenas.cost.table import LatencyTable
from dicenas.space import SpaceSpec

CONFIG = """
name: tiny
space: {backbone: shufflenetv2, ops: [separable_k3, dice_k3], widths: [0.1], depths: [[1], [1], [1]], stem: small}
data: {dataset: digits, image_size: 16}
latency: {input_size: 16}
"""


@pytest.fixture(scope="module")
def table_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "table.json"
    space = SpaceSpec(
        "shufflenetv2", ("separable_k3", "dice_k3"), (0.1,), ((1,), (1,), (1,)), ("small",), (16,), num_classes=10
    )
    build_table(space, LatencySettings(threads=1), path, plan=BuildPlan(contexts=1, time_limit_s=0))
    return path


def test_build_from_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    command = ["latency", "build", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "t.json"), "--contexts", "2"]
    assert main([*command, "--runtime", "eager"]) == 0
    table = LatencyTable.load(tmp_path / "t.json")
    assert table.space.ops == ("separable_k3", "dice_k3")
    assert table.space.num_classes == 10
    found = table.fingerprint
    assert (found.runtime, found.threads, found.input_size, found.native_kernels) == ("eager", 1, 16, False)
    out = capsys.readouterr().out
    assert "shufflenetv2, 64 architectures; cpu, runtime eager, batch 1, float32, threads 1, 16×16" in out
    assert "Networks held out of the fit are predicted to" in out
    assert main([*command, "--runtime", "eager"]) == 2
    assert "replace it with --force" in capsys.readouterr().err


def test_show(table_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["latency", "show", str(table_path), "--plot", str(tmp_path / "blocks.png")]) == 0
    out = capsys.readouterr().out
    table = LatencyTable.load(table_path)
    assert len([line for line in out.splitlines() if "→" in line]) == len(table.blocks_ms())
    assert table.fingerprint.device_name in out
    assert (tmp_path / "blocks.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("suffix", [".svg", ".html"])
def test_check(suffix: str, table_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot, figures = tmp_path / f"check{suffix}", tmp_path / "check.json"
    arguments = ["--nets", "3", "--plot", str(plot), "--json", str(figures)]
    assert main(["latency", "check", str(table_path), *arguments]) == 0
    out = capsys.readouterr().out
    assert "3 unseen networks" in out
    assert "plain sum of blocks" in out
    assert "FLOPs (MACs) alone" in out
    data = json.loads(figures.read_text())
    assert 0 <= data["within_5_percent"] <= data["within_10_percent"] <= 1
    assert -1 <= data["macs"]["kendall_tau"] <= 1
    text = plot.read_text()
    assert "Predicted and measured latency of 3 unseen networks" in text
    if suffix == ".html":
        assert text.count("<tr>") == 4
        assert all(network["architecture"]["stages"][0][0] in text for network in data["networks"])


def test_bad_input(table_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "damaged.json"
    damaged.write_text(table_path.read_text().replace("separable_k3", "separable_k5"))
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text("{}")
    for command, message in (
        (["build", "shuflenetv2", "--out", "t.json"], "did you mean 'shufflenetv2'"),
        (["build", "shufflenetv2", "--out", "no/folder/t.json"], "create it first"),
        (["build", "shufflenetv2", "--out", "t.json", "--runtime", "fast"], "unknown runtime 'fast'"),
        (["build", "shufflenetv2", "--out", "t.json", "--device", "cuda:7"], "finds no CUDA device here"),
        (["show", "missing.json"], "missing.json"),
        (["show", str(damaged)], "checksum does not match"),
        (["check", str(elsewhere)], "no latency table"),
        (["check", str(table_path), "--nets", "1"], "two networks are the least"),
        (["check", str(table_path), "--plot", "check.gif"], "should end in one of .png, .svg, .pdf, .html"),
        (["check", str(table_path), "--json", "no/folder/check.json"], "does not exist"),
    ):
        assert main(["latency", *command]) == 2, command
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["latency"])
    assert "ACTION" in capsys.readouterr().err
