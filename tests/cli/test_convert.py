from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dicenas.cli import main


def test_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "torchvision:shufflenet_v2_x0_5", "--image-size", "64", "--where", "stage4.*"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("replaced 5 separable convolutions by dice, left 14\n")
    assert "stage4.0.branch2.3 … stage4.0.branch2.5: 96 to 96 channels, 2×2, stride 2" in text
    assert "and 10 more: not chosen" in text
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if re.match("(before|after) ", line)]
    assert [row[0] for row in rows] == ["before", "after"]
    (before, after) = ([float(value.replace(",", "")) for value in row[1:]] for row in rows)
    assert before[1] == 1_366_792  # torchvision's own number
    assert after[1] != before[1]
    assert min(before[2], after[2]) > 0
    assert "latency ms" in text
    assert "medians of 15 rounds in turns; batch 1" in text


def test_the_program_runs_with_torch_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "dice.pt2"
    network = ["timm:mobilenetv3_small_050", "--image-size", "64", "--op", "dice_k5", "--no-latency"]
    assert main(["convert", *network, "--save", str(file)]) == 0
    assert f"program: {file}" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["dice.pt2"]
    program = torch.export.load(file)
    calls = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert calls
    assert not any("dicenas" in target for target in calls)
    for batch in (1, 5):
        assert program.module()(torch.randn(batch, 3, 64, 64)).shape == (batch, 1000)


def test_nothing_to_replace(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "torchvision:resnet18", "--image-size", "32"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("replaced 0 separable convolutions by dice, left 0\n")
    assert "latency" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mobilenet_v2"], "should be torchvision:NAME or timm:NAME"),
        (["os:system"], "should be torchvision:NAME or timm:NAME"),
        (["torchvision:mobilenetv2"], "torchvision has no network 'mobilenetv2'; did you mean 'mobilenet_v2'?"),
        (["timm:hf-hub:somebody/net"], "timm has no network 'hf-hub:somebody/net'"),
        (["torchvision:squeezenet1_1", "--op", "dise"], "did you mean 'dice'"),
        (["torchvision:squeezenet1_1", "--where", "head.*"], "'head.*' matches no separable convolution"),
        (["torchvision:squeezenet1_1", "--image-size", "4"], "torchvision:squeezenet1_1: the network does not run"),
        (["torchvision:squeezenet1_1", "--image-size", "0"], "no integer of at least 1"),
        (["torchvision:squeezenet1_1", "--save", "net.onnx"], "does not end in .pt2"),
        (["torchvision:squeezenet1_1", "--save", "no/such/folder/net.pt2"], "there is no folder no/such/folder"),
        (["torchvision:squeezenet1_1", "--device", "abacus"], "abacus"),
    ],
)
def test_bad_input(arguments: list[str], message: str, refused: Callable[..., str]) -> None:
    assert message in refused("convert", *arguments)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    assert "examples:\n  dicenas convert torchvision:mobilenet_v2\n" in capsys.readouterr().out
