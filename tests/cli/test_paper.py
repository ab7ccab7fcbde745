from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dicenas.cli import main
from dicenas.nets import architecture_cost
from dicenas.paper import TABLE_4, load_rows
from dicenas.paper.compare import compared_tables

ROWS = Path(__file__).resolve().parent.parent.parent / "configs" / "paper"


def test_without_options_the_paper_s_tables_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paper"]) == 0
    out = capsys.readouterr().out
    for number, title in compared_tables().items():
        assert f"--table {number} " in out
        assert title in out
    assert "--figure 2" in out


@pytest.mark.parametrize(("number", "parts"), [("1", ["1"]), ("2", ["2a", "2b"]), ("3", ["3"])])
def test_rows_off_by_more_than_5_percent_are_marked(
    number: str, parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["paper", "--table", number]) == 0
    printed = [re.split(r"  +", line.strip()) for line in capsys.readouterr().out.splitlines()]
    for part in parts:
        for row in load_rows(part):
            macs_millions = architecture_cost(row.architecture).macs / 1e6
            share = macs_millions / row.paper_macs_millions - 1
            line = [
                *(row.row, row.column, f"{row.architecture.backbone} {row.architecture.width:g}", row.op),
                *(f"{row.paper_macs_millions:g}", f"{macs_millions:.1f}"),
                f"{share:+.1%}" + (" *" if abs(share) > 0.05 else ""),
                f"{row.paper_top1_percent:.2f}",
            ]
            if row.architecture.image_size != (224, 224):
                line[2] += f" at {row.architecture.image_size[0]}"
            assert line in printed


def test_table_4_says_whose_accuracies_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paper", "--table", "4"]) == 0
    out = capsys.readouterr().out
    assert "the paper's, not measured here" in out
    lines = out.splitlines()
    for point in TABLE_4:
        assert any(line.startswith(f"{point.family} ") and f" {point.top1_percent:.1f} " in line for line in lines)
    (condense,) = [line for line in lines if line.startswith("CondenseNet")]
    assert condense.split() == ["CondenseNet", "71.0", "274", "–", "–", "–"]


@pytest.mark.parametrize("suffix", ["png", "svg", pytest.param("pdf", marks=pytest.mark.slow)])
def test_figure_2_is_drawn(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / f"figure.{suffix}"
    assert main(["paper", "--figure", "2", "--plot", str(file)]) == 0
    assert f"Drawn into {file}" in capsys.readouterr().out
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert file.read_bytes().startswith(starts[suffix])
    if suffix == "svg":
        text = file.read_text(encoding="utf-8")
        for word in ("MobileNetv2", "dicenet_150", "6 / 91 / 3", "paper: 6 / 79 / 15", "point-wise"):
            assert word in text
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_row_of_the_paper_is_profiled_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "row.svg"
    row = ROWS / "table1_mobilenet_025-060_dice.yaml"
    assert main(["profile", str(row), "--input-size", "64", "--runtime", "eager", "--plot", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("table1_mobilenet_025-060_dice: mobilenetv1, width 0.25, 64×64")
    assert "Bottleneck: block " in out
    kinds = [line.split("  ")[0] for line in out[out.index("kind of layer") :].splitlines()[2:7]]
    assert kinds[0] == "standard convolution"
    assert "depth-wise, dimension-wise, grouped" in kinds
    text = file.read_text(encoding="utf-8")
    for word in ("Parameters, thousand", "Time, ms", "s5_b1", "runtime eager"):
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table", "9"], "invalid choice"),
        (["--figure", "1"], "invalid choice"),
        (["--table", "2", "--figure", "2"], "not allowed with argument"),
        (["--table", "2", "--plot", "x.png"], "--plot draws a figure"),
        (["--figure", "2", "--plot", "x.gif"], "x.gif should end in one of .png, .svg, .pdf"),
        (["--figure", "2", "--plot", "nowhere/x.png"], "the folder nowhere does not exist"),
    ],
)
def test_wrong_options_of_paper(arguments: list[str], message: str, refused: Callable[..., str]) -> None:
    assert message in refused("paper", *arguments)


def test_a_picture_needs_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = refused("paper", "--figure", "2", "--plot", tmp_path / "x.png")
    assert "pip install 'dicenas[plots]'" in message
    assert "pip install 'dicenas[plots]'" in refused("profile", "dicenet_010", "--plot", tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_is_no_folder(tmp_path: Path, refused: Callable[..., str]) -> None:
    folder = tmp_path / "folder.png"
    folder.mkdir()
    assert "is a folder" in refused("paper", "--figure", "2", "--plot", folder)


def test_a_damaged_row_is_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    file = tmp_path / "row.yaml"
    file.write_text("table: '1'\n", encoding="utf-8")
    assert f"{file}: the file has no 'row'" in refused("profile", file)
