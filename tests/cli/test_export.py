from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dicenas.cli import main
from dicenas.export import folder
from dicenas.nets import dicenet, edgenets, net_architecture
from dicenas.runs import RunFolder
from tests.export.verifying import ForkServer, quick_verification


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Most of an export's time goes into importing torch once more."""
    server = ForkServer()
    with quick_verification(server):
        yield
    server.stop()


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
    assert "this network has not been trained" in (out / "README.md").read_text(encoding="utf-8")
    # What was exported is itself a source.
    assert main(["profile", str(out)]) == 0


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as EdgeNets' training writes them, of DiCENet at scale 0.1 with three classes."""
    network = dicenet(0.1, num_classes=3, image_size=64)
    own = network.state_dict()
    state = {f"module.{key}": own[name] for name, key in edgenets.upstream_keys(network).items()}
    path = tmp_path_factory.mktemp("weights") / "dicenet_checkpoint.pth.tar"
    torch.save({"epoch": 2, "state_dict": state, "best_prec1": torch.tensor(33.3)}, path)
    return path


def test_a_published_network_leaves_with_the_weights_of_a_checkpoint(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net"
    assert main(["export", "dicenet_010", "--weights", str(checkpoint), "--out", str(out)]) == 0
    assert "fresh" not in capsys.readouterr().err
    exported = load_file(out / "model.safetensors")
    trained = edgenets.read_classification(checkpoint).state_dict()
    assert exported.keys() == trained.keys()
    assert all(exported[name].equal(trained[name]) for name in trained)
    assert exported["head.classifier.weight"].shape[0] == 3
    assert "mean (0.485, 0.456, 0.406)" in (out / "README.md").read_text(encoding="utf-8")


def test_a_trial_leaves_as_a_program(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "net"
    command = ["export", str(run.path), "--out", str(out), "--formats", "pt2, py", "--fold-bn", "--image-size", "40x33"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "one image of 40 x 33 on one thread" in printed
    assert re.search(r"^  torch.export +[23] +\d\.\de-\d+ +\d+\.\d\d +\d+\.\d\dx$", printed, flags=re.MULTILINE)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "normalisations folded" in card
    assert (out / "architecture.svg").read_text(encoding="utf-8").startswith("<svg")
    assert (out / "model.pt2").is_file()
    assert not (out / "model.safetensors").exists()


def test_what_was_exported_leaves_in_another_format(run: RunFolder, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["export", str(run.path), "--out", str(first)]) == 0
    assert main(["export", str(first), "--out", str(second), "--formats", "safetensors,torchscript"]) == 0
    exported, trained = load_file(second / "model.safetensors"), load_file(run.weights_path(2))
    assert all(exported[name].equal(trained[name]) for name in trained)
    metrics, card = ((second / name).read_text(encoding="utf-8") for name in ("metrics.json", "README.md"))
    assert metrics == (first / "metrics.json").read_text(encoding="utf-8")
    for line in (first / "README.md").read_text(encoding="utf-8").partition("## Input")[2].splitlines():
        if line.startswith("## Verification"):
            break
        assert line in card


def test_a_network_that_is_not_verified_leaves_nothing(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if 16 bits were to lose nothing.
    monkeypatch.setattr(folder, "tolerance", lambda dtype, fold_bn: 1e-9)
    assert main(["export", str(run.path), "--out", str(tmp_path / "net"), "--dtype", "float16"]) == 1
    complaint = capsys.readouterr().err
    assert "FAIL torch" in complaint
    assert "nothing was written" in complaint
    assert not (tmp_path / "net").exists()


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
        (["TRIAL"], "with --trial 1"),
        (["FOLDED"], "is to be exported once more without that"),
        (["RUN", "--trial", "0"], "trials/0/architecture.json with fresh ones"),
        (["RUN", "--trial", "3"], "is failed and has nothing to export: out of memory"),
        (["NEWER"], "newer.json: architecture has schema version 99, this dicenas reads 1"),
        (["RUN", "--formats", "py,onx"], "unknown format 'onx'"),
        (["RUN", "--formats", "onnx", "--dtype", "bfloat16"], "onnxruntime has no bfloat16 convolutions"),
        (["RUN", "--dtype", "half"], "unknown dtype 'half'"),
        (["RUN", "--image-size", "32x"], "no integer of at least 1"),
        (["dicenet_100", "--trial", "1"], "--trial is for run folders"),
        (["dicenet_101"], "did you mean 'dicenet_1"),
        (["dicenet_020", "--weights", "CHECKPOINT"], "holds DiCENet of scale 0.1, which is not the network"),
        (["dicenet_010", "--weights", "none.pth"], "there is no checkpoint file none.pth"),
        (["dicenet_010", "--weights", __file__], "test_export.py is no checkpoint"),
        (["RUN", "--weights", "CHECKPOINT"], "--weights is for networks without trained weights"),
        (["."], "neither a run folder (no config.yaml) nor holds an architecture.json"),
    ],
)
def test_bad_input_writes_nothing(
    arguments: list[str],
    message: str,
    run: RunFolder,
    checkpoint: Path,
    tmp_path: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    newer = tmp_path / "newer.json"
    newer.write_text(json.dumps(net_architecture("dicenet_010").to_dict() | {"schema_version": 99}), encoding="utf-8")
    folded = tmp_path / "folded"
    folded.mkdir()
    net_architecture("dicenet_010").save(folded / "architecture.json")
    save_file({"stem.conv.bias": torch.zeros(8)}, folded / "model.safetensors")
    run.weights_path(0).unlink()  # as of an evaluation that leaves none
    paths = {"RUN": str(run.path), "CHECKPOINT": str(checkpoint), "NEWER": str(newer)}
    paths |= {"TRIAL": str(run.trial_path(1)), "FOLDED": str(folded)}
    source, *rest = [paths.get(argument, argument) for argument in arguments]
    assert message in refused("export", source, "--out", "net", *rest)
    assert list(Path().iterdir()) == []
