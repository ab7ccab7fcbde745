"""Networks to export, with weights and statistics as training leaves them rather than as they are drawn."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from dicenas.architecture import Architecture
from dicenas.export import verify
from dicenas.nets import Network, build
from dicenas.ops import registry
from dicenas.space import SpaceSpec
from tests.export.verifying import ForkServer, quick_verification


def make_trained(architecture: Architecture) -> Network:
    torch.manual_seed(0)
    network = build(architecture)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
                module.weight.uniform_(0.7, 1.3)
                module.bias.normal_(std=0.2)
            elif isinstance(module, nn.PReLU):
                module.weight.uniform_(0.0, 0.5)
            elif isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                module.bias.normal_(std=0.2)
        # With the statistics of a real batch no signal dies on its way: the logits depend on the image.
        images = torch.randn(8, architecture.in_channels, *architecture.image_size)
        network.train()(images)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1
        logits = network.eval()(images)
        # A hundred times what an export may differ by.
        assert logits.std(0).mean() > 1e-3 * logits.abs().max()
    return network


def draw_architecture(backbone: str, seed: int) -> Architecture:
    ops = ("separable", "separable_se", "dice", "skip")
    spec = SpaceSpec(backbone, ops, stems=("small", "imagenet"), resolutions=(32, 45), num_classes=10)
    return spec.random(random.Random(seed))


@pytest.fixture
def trained() -> Callable[[Architecture], Network]:
    """Builds a network whose every tensor matters to its logits."""
    return make_trained


@pytest.fixture
def sampled() -> Callable[[str, int], Architecture]:
    """Draws a random architecture of a backbone, for small images."""
    return draw_architecture


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """What forks the processes that verify."""
    server = ForkServer()
    yield server
    server.stop()


@pytest.fixture(scope="module", autouse=True)
def quick(fork_server: ForkServer) -> Iterator[None]:
    """Most of an export's time goes into importing torch once more."""
    with quick_verification(fork_server):
        yield


@pytest.fixture
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports are verified in processes of their own, as they are outside of these tests."""
    monkeypatch.setattr(verify, "subprocess", subprocess)


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test registers is gone after it."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
