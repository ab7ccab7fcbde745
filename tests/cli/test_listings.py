from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dicenas.cli import main
from dicenas.nets import architecture_cost, list_backbones, net_architecture
from dicenas.ops import CandidateArguments, candidate_cost, expand_candidates, list_ops
from dicenas.runs import RunFolder


def test_ops_lists_every_candidate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops"]) == 0
    out = capsys.readouterr().out
    for op in list_ops():
        assert f"\n{op} " in out
    for candidate in expand_candidates(list_ops()):
        assert candidate in out


def test_costs_of_ops(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", "--cost", "32", "64", "14", "--stride", "2"]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[1:]}
    cost = candidate_cost("dice_k5", CandidateArguments(32, 64, 2, (14, 14), 5, "prelu", True))
    assert rows["dice_k5"] == [f"{cost.macs:,}", f"{cost.params:,}"]
    assert rows["skip"] == ["–", "–"]


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
