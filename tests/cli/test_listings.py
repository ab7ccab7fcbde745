from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dicenas.cli import main
from dicenas.cost import profile_candidate
from dicenas.nets import architecture_cost, list_backbones, net_architecture
from dicenas.ops import CandidateArguments, candidate_cost, expand_candidates, get_op, list_ops
from dicenas.runs import RunFolder


def rows_of(out: str) -> dict[str, list[str]]:
    """The cells of a table of costs by candidate."""
    return {cells[0]: cells[1:] for line in out.splitlines() if (cells := re.split(r" {2,}", line.strip()))}


def test_ops_lists_every_op(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops"]) == 0
    out = capsys.readouterr().out
    for op in map(get_op, list_ops()):
        (line,) = [line for line in out.splitlines() if f" {op.name} " in line[:40]]
        assert (", ".join(map(str, op.kernel_sizes)) or "–") in line
        assert op.summary.rstrip(".") in line
    assert max(map(len, out.splitlines())) <= 120


def test_costs_of_ops(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", "--cost", "32", "64", "14", "--stride", "2", "--no-latency", "--sort", "macs"]) == 0
    out = capsys.readouterr().out
    rows = rows_of(out)
    arguments = CandidateArguments(32, 64, 2, (14, 14), 5, "prelu", True)
    cost, memory_mb = candidate_cost("dice_k5", arguments), profile_candidate("dice_k5", arguments).peak_memory_mb
    # Average pooling 3x3 and stride 2, then kernels 5 and 3 at half the size.
    assert rows["dice_k5"] == [f"{cost.macs:,}", f"{cost.params:,}", f"{memory_mb * 1e3:,.0f}", "15 + global"]
    macs = [int(cells[0].replace(",", "")) for name, cells in rows.items() if name in expand_candidates(list_ops())]
    assert len(macs) > 40
    assert macs == sorted(macs)
    assert "Do not fit: se, skip" in out


def test_costs_of_ops_are_grouped_and_measured(capsys: pytest.CaptureFixture[str]) -> None:
    only = ["dice_k3", "separable", "skip"]
    assert main(["ops", "--cost", "8", "8", "7", "--runtime", "kernels", "--batch", "2", "--only", *only]) == 0
    out = capsys.readouterr().out
    first_cells = [line.split()[0] for line in out.splitlines()[3:8]]
    assert first_cells == ["identity", "separable", "separable_k5", "separable_k7", "DiCE"]
    assert "batch 2, runtime kernels, threads 1" in out
    assert all(float(line.split()[-2]) > 0 for line in out.splitlines()[3:8])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "dise"], "unknown op 'dise'; did you mean 'dice'"),
        (["--only", "dice", "dice_k3"], "given twice: dice_k3"),
        (["--sort", "latency", "--no-latency"], "leave out --no-latency"),
        (["--runtime", "compiled"], "eager, kernels or fused"),
        (["--runtime", "eagre"], "did you mean 'eager'"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_impossible_costs_of_ops(arguments: list[str], message: str, refused: Callable[..., str]) -> None:
    assert message in refused("ops", "--cost", "8", "8", "8", *arguments)


def test_costs_of_ops_that_do_not_fit(refused: Callable[..., str]) -> None:
    message = refused("ops", "--cost", "3", "8", "8", "--only", "dice", "skip", "--no-latency")
    assert "none of dice_k3, dice_k5, skip maps 3 to 8 channels" in message


@pytest.mark.parametrize("arguments", [["--cost", "0", "8", "8"], ["--cost", "8", "8"], ["--stride", "3"]])
def test_wrong_options_of_ops(arguments: list[str], refused: Callable[..., str]) -> None:
    assert "dicenas ops: error:" in refused("ops", *arguments)


def test_spaces_lists_every_backbone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spaces"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n{name} " in out for name in list_backbones())


def test_the_space_of_a_configuration(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spaces", str(config)]) == 0
    out = capsys.readouterr().out
    # Three stages of a down-sampling unit with 7 candidates and a unit with `skip` beside them.
    assert f"{(7 * 8) ** 3:,} architectures over shufflenetv2" in out
    assert "\ns1_b1 " in out
    assert "at 64×64 pixels" in out


def test_profile_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "dicenet_010", "--input-size", "64", "--batch", "2"]) == 0
    out = capsys.readouterr().out
    cost = architecture_cost(net_architecture("dicenet_010", image_size=64))
    (total,) = [line.split() for line in out.splitlines() if line.startswith("total")]
    assert total[:-2] == ["total", f"{cost.macs:,}", "100.0%", f"{cost.params:,}", "100.0%"]
    assert total[-1] == "100.0%"
    assert "gives the same totals" in out
    assert "batch 2, runtime kernels" in out


def test_profile_lists_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "dicenet_010", "--input-size", "32", "--runtime", "eager", "--kernels"]) == 0
    out = capsys.readouterr().out
    table = out[out.index("kernel ") :]
    assert "aten::" in table
    assert " others" in table
    shares = [float(line.split()[-1].rstrip("%")) for line in table.splitlines() if line.endswith("%")]
    assert sum(shares) == pytest.approx(100, abs=1)


def test_profile_of_a_trial_is_taken_where_the_run_took_its_costs(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", str(run.path), "--trial", "0"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("trial 0 of")
    assert f"{run.read_trial(0).metrics['macs']:,.0f}" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dicenet_010", "--runtime", "eagre"], "did you mean 'eager'"),
        (["dicenet_010", "--device", "tpu"], "tpu"),
        (["dicenet_010", "--dtype", "float31"], "did you mean 'float32'"),
        (["dicenet_010", "--batch", "0"], "'0' is no integer of at least 1"),
    ],
)
def test_wrong_options_of_profile(arguments: list[str], message: str, refused: Callable[..., str]) -> None:
    assert message in refused("profile", *arguments)


def test_report_writes_the_page_and_prints_the_front(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run.path)]) == 0
    assert "Pareto front" in capsys.readouterr().out
    assert "out of memory" in run.report_path.read_text(encoding="utf-8")


def test_report_of_something_else(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "no run folder" in refused("report", tmp_path)
