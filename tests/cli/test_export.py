from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from dicenas.cli import main
from dicenas.nets import net_architecture
from dicenas.runs import RunFolder


@pytest.mark.parametrize(("trial", "number"), [([], 2), (["--trial", "1"], 1)])
def test_a_trial_leaves_with_its_weights(
    trial: list[str], number: int, run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net"
    assert main(["export", str(run.path), "--out", str(out), *trial]) == 0
    assert f"exported trial {number} of" in capsys.readouterr().out
    assert (out / "model.py").is_file()
    exported, trained = load_file(out / "model.safetensors"), load_file(run.weights_path(number))
    assert exported.keys() == trained.keys()
    assert all(exported[name].equal(trained[name]) for name in trained)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["accuracy"] == pytest.approx(0.7 + 0.1 * number)


def test_an_architecture_file_is_built_afresh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "net.json", tmp_path / "net"
    net_architecture("dicenet_010", num_classes=3, image_size=64).save(file)
    assert main(["export", str(file), "--out", str(out), "--formats", "py"]) == 0
    assert "no trained weights" in capsys.readouterr().err
    assert not (out / "model.safetensors").exists()
    # What was exported is itself a source.
    assert main(["profile", str(out)]) == 0


def test_an_existing_folder_needs_force(
    run: RunFolder, tmp_path: Path, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(run.path), "--out", str(tmp_path / "net"), "--formats", "safetensors"]
    assert main(command) == 0
    capsys.readouterr()
    assert "exists" in refused(*command)
    assert main([*command, "--force"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "--trial", "9"], "no finished trial 9"),
        (["RUN", "--trial", "worst"], "'worst' is neither 'best' nor the number of a trial"),
        (["RUN", "--formats", "py,onx"], "unknown format 'onx'"),
        (["dicenet_100", "--trial", "1"], "--trial is for run folders"),
        (["dicenet_101"], "did you mean 'dicenet_1"),
        (["."], "neither a run folder (no config.yaml) nor holds an architecture.json"),
    ],
)
def test_bad_input_writes_nothing(
    arguments: list[str],
    message: str,
    run: RunFolder,
    tmp_path: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    source, *rest = [str(run.path) if argument == "RUN" else argument for argument in arguments]
    assert message in refused("export", source, "--out", "net", *rest)
    assert list(Path().iterdir()) == []
