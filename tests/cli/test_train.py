from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dicenas.cli import main

COMMAND = [
    *("train", "mobilenetv1_025", "--data", "digits", "--recipe", "short", "--device", "cpu"),
    *("--epochs", "1", "--batch", "256", "--image-size", "16", "--warmup-epochs", "0.2", "--max-grad-norm", "none"),
]


def test_a_network_is_trained_drawn_and_exported(
    tmp_path: Path, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*COMMAND, "--out", str(out)]) == 0
    first = capsys.readouterr().out
    assert first.startswith("epoch 1/1  accuracy")
    assert f"exported to {out / 'export'}" in first
    for name in ("curves.png", "confusion.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    architecture = json.loads((out / "export" / "architecture.json").read_text(encoding="utf-8"))
    assert (architecture["num_classes"], architecture["stem"], architecture["image_size"]) == (10, "small", [16, 16])
    assert (out / "export" / "architecture.svg").is_file()
    recipe = json.loads((out / "training.json").read_text(encoding="utf-8"))["recipe"]
    assert (recipe["epochs"], recipe["batch"], recipe["max_grad_norm"]) == (1, 256, None)
    # The same command once more finds it done; another one is refused.
    assert main([*COMMAND, "--out", str(out)]) == 0
    assert "epoch 1/1" not in (second := capsys.readouterr().out)
    assert second.splitlines()[0] in first
    message = refused(*COMMAND, "--out", out, "--seed", "1")
    assert "recipe.seed: 0 there, 1 asked for" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "cifra"], "did you mean 'cifar'"),
        (["--epochs", "many"], "epochs: 'many', expected a whole number"),
        (["--data", "/nowhere"], "/nowhere does not exist"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--teacher-weights", "x.pth"], "--teacher-weights without --teacher"),
        (["--trial", "3"], "--trial is for run folders"),
    ],
)
def test_what_cannot_be_is_refused(
    arguments: list[str], message: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    assert message in refused(*COMMAND, *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_training_that_diverges_ends_with_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--learning-rate", "1e30", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "dicenas train: training diverged: the loss is" in said.err
    assert said.out == ""
