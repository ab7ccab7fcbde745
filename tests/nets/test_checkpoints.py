"""Published networks from checkpoint files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

from dicenas.architecture import Architecture
from dicenas.nets import (
    build,
    dicenet,
    dicenet_architecture,
    edgenets,
    mobilenetv2_architecture,
    resnet_architecture,
    shufflenetv2_architecture,
)
from dicenas.nets.checkpoints import read_network

X0_5 = shufflenetv2_architecture(0.5, "torchvision")


def test_torchvision_s_files(tmp_path: Path) -> None:
    theirs = torchvision.models.shufflenet_v2_x0_5(num_classes=7).eval()
    torch.save(theirs.state_dict(), tmp_path / "shufflenet.pth")
    network = read_network(tmp_path / "shufflenet.pth", X0_5).eval()
    assert network.architecture == X0_5.replace(num_classes=7)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(x), theirs(x))


def test_edgenets_files(tmp_path: Path) -> None:
    for saved in (dicenet(0.1, 5, 64), build(shufflenetv2_architecture(0.1, "edgenets", 5, 64))):
        names = edgenets.upstream_keys(saved)
        state = {f"module.{names[name]}": tensor for name, tensor in saved.state_dict().items()}
        torch.save({"state_dict": state}, tmp_path / "net.pth")
        asked = saved.architecture.replace(num_classes=1000)
        network = read_network(tmp_path / "net.pth", asked)
        assert network.architecture == saved.architecture
        assert all(torch.equal(tensor, saved.state_dict()[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (shufflenetv2_architecture(1.0, "torchvision"), r"net\.pth: these are not the weights .*stage2\.0\.branch1\.2"),
        (shufflenetv2_architecture(0.5, "edgenets"), r"net\.pth: these are not .*missing key level1\.cbr\.0\.weight"),
        (mobilenetv2_architecture(1.0), r"net\.pth: these are not .*missing key features\.0\.0\.weight"),
        (dicenet_architecture(0.5), r"net\.pth: this is no classification network of DiCENet"),
        (resnet_architecture(0.25), "no published weights of this network: torchvision has no counterpart of a resnet"),
        (X0_5.replace(stages=(("dice_k3",) * 4,) * 3), "no published weights .*its networks have separable"),
    ],
    ids=lambda value: f"{value.backbone}_{value.hash[:4]}" if isinstance(value, Architecture) else "",
)
def test_files_of_other_networks(tmp_path: Path, architecture: Architecture, message: str) -> None:
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=message):
        read_network(tmp_path / "net.pth", architecture)


def test_dicenet_of_another_scale(tmp_path: Path) -> None:
    saved = dicenet(0.1, 5, 64)
    names = edgenets.upstream_keys(saved)
    torch.save({names[name]: tensor for name, tensor in saved.state_dict().items()}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"net\.pth holds DiCENet of scale 0\.1, which is not the network asked for"):
        read_network(tmp_path / "net.pth", dicenet_architecture(0.2))


def test_classifier_without_classes(tmp_path: Path) -> None:
    state = torchvision.models.shufflenet_v2_x0_5().state_dict()
    torch.save({**state, "fc.weight": torch.zeros(0, 1024), "fc.bias": torch.zeros(0)}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"net\.pth: .*fc\.bias has shape \(0,\), expected \(1000,\)"):
        read_network(tmp_path / "net.pth", X0_5)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"net\.pth is no checkpoint, or a damaged one"):
        read_network(tmp_path / "net.pth", X0_5)
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint file .*absent\.pth"):
        read_network(tmp_path / "absent.pth", X0_5)
