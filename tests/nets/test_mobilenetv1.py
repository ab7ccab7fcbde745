"""MobileNetV1 against timm's."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dicenas.nets import architecture_cost, build, mobilenetv1_architecture
from dicenas.space import SpaceSpec


@pytest.mark.parametrize(
    ("width", "macs", "params"), [(0.25, 41, 0.5), (0.5, 149, 1.3), (0.75, 325, 2.6), (1.0, 569, 4.2)]
)
def test_cost_is_that_of_the_paper(width: float, macs: int, params: float) -> None:
    # arXiv 1704.04861, Table 6, in millions.
    cost = architecture_cost(mobilenetv1_architecture(width))
    assert round(cost.macs / 1e6) == macs
    assert round(cost.params / 1e6, 1) == params


@pytest.mark.parametrize("name", ["mobilenetv1_100", "mobilenetv1_125"])
def test_cost_is_timm_s(name: str) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(name, pretrained=False).eval()
        x = torch.empty(1, 3, 224, 224)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        theirs(x)
    cost = architecture_cost(mobilenetv1_architecture(int(name[-3:]) / 100))
    assert cost.macs == counter.get_total_flops() // 2
    assert cost.params == sum(parameter.numel() for parameter in theirs.parameters())


def test_network_is_timm_s() -> None:
    # timm's activation is ReLU6, the paper's is ReLU.
    theirs = timm.create_model("mobilenetv1_100", pretrained=False, num_classes=7, act_layer=nn.ReLU).double()
    theirs(torch.randn(4, 3, 64, 64, dtype=torch.float64))  # statistics of its own
    ours = build(mobilenetv1_architecture(1.0, 7, 64)).double()
    # The layers stand in the same order, and have the same tensors in the same order.
    state = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(state)
    for size in ((75, 64), (64, 33)):
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-10, atol=1e-10)


def test_published_networks_are_points_of_the_space() -> None:
    for width in (0.25, 0.5, 0.75, 1.0):
        assert mobilenetv1_architecture(width) in SpaceSpec("mobilenetv1")


def test_stems() -> None:
    architecture = mobilenetv1_architecture(0.5, 10, (45, 38))
    x = torch.randn(1, 3, 45, 38)
    assert build(architecture).stem.eval()(x).shape == (1, 16, 23, 19)
    assert build(architecture.replace(stem="small")).stem.eval()(x).shape == (1, 16, 45, 38)


@pytest.mark.parametrize("width", [0.01, 9.0])
def test_impossible_width(width: float) -> None:
    with pytest.raises(ValueError, match=rf"mobilenetv1: width {width} is outside 0\.05 to 8"):
        build(mobilenetv1_architecture(width))
