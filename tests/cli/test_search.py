from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dicenas.cli import main
from dicenas.runs import RunFolder


def test_three_mistakes_are_told_at_once_and_nothing_is_written(
    config: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    settings["space"]["ops"] = ["dicee", "skip"]
    settings["search"]["sampler"] = "tpee"
    settings["objectives"] = {"acuracy": "maximize"}
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    message = refused("search", config, "--out", tmp_path / "runs")
    for given, nearest in (("dicee", "dice"), ("tpee", "tpe"), ("acuracy", "accuracy")):
        assert given in message
        assert f"did you mean '{nearest}'" in message
    assert "3 problems" in message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trials", "-1"], "--trials: '-1' is no integer of at least 1"),
        (["--trials", "0"], "'0' is no integer of at least 1"),
        (["--seed", "x"], "--seed: 'x' is no integer of at least 0"),
        (["--name", "a/b"], "name = 'a/b': expected a name"),
    ],
)
def test_wrong_options(
    arguments: list[str], message: str, config: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    assert message in refused("search", config, "--out", tmp_path / "runs", *arguments)
    assert not (tmp_path / "runs").exists()


def test_a_missing_configuration(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "nowhere.yaml" in refused("search", tmp_path / "nowhere.yaml")


def test_a_search_and_the_same_again(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["search", str(config), "--out", str(tmp_path / "runs"), "--name", "mine", "--trials", "3"]
    assert main(command) == 0
    run = RunFolder(tmp_path / "runs" / "mine")
    out = capsys.readouterr().out
    assert out.startswith("Pareto front")
    assert str(run.report_path) in out
    assert len(run.trials()) == 3
    assert run.report_path.is_file()
    assert (run.export_path / "model.py").is_file()

    assert main(command) == 0
    assert "nothing was added" in capsys.readouterr().out
    assert len(run.trials()) == 3
