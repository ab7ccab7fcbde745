"""MobileNetV2 against torchvision's."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dicenas.nets import InvertedResidual, architecture_cost, build, get_backbone, mobilenetv2_architecture
from dicenas.ops import Cost, build_op, make_divisible


@pytest.mark.parametrize("width", [0.35, 1.0, 1.4])
def test_cost_is_torchvision_s(width: float) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.mobilenet_v2(width_mult=width).eval()
        x = torch.empty(1, 3, 224, 224)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        theirs(x)
    cost = architecture_cost(mobilenetv2_architecture(width))
    assert cost.macs == counter.get_total_flops() // 2
    assert cost.params == sum(parameter.numel() for parameter in theirs.parameters())
    if width == 1.0:
        assert cost.params == 3_504_872


def test_network_is_torchvision_s() -> None:
    theirs = torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.35).double()
    ours = build(mobilenetv2_architecture(0.35, 10, 64)).double()
    theirs(torch.randn(4, 3, 64, 64, dtype=torch.float64))  # statistics of its own
    state = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in state.items()
    }
    ours.load_state_dict(state)
    x = torch.randn(2, 3, 75, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-10, atol=1e-10)


def test_input_is_added_where_shapes_allow() -> None:
    def block(out_channels: int, stride: int) -> InvertedResidual:
        op = build_op("separable", 24, out_channels, stride=stride, size=(4, 4), final_activation=False)
        nn.init.zeros_(op.pointwise.norm.weight)
        return InvertedResidual(8, 24, out_channels, stride, op)

    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(block(8, 1)(x), x)
    assert not block(12, 1)(x).any()
    assert block(8, 2)(x).shape == (2, 8, 2, 2)
    assert not block(8, 2)(x).any()


def test_skip_is_the_whole_block() -> None:
    family = get_backbone("mobilenetv2")
    architecture = mobilenetv2_architecture(0.5, 10, 32)
    block = family.block_with_op(family.layout(architecture).stages[1][1], "skip")
    assert isinstance(family.build_block(block), nn.Identity)
    assert family.block_cost(block) == Cost()
    # One network has one description: the block is left out of it.
    stages = architecture.stages
    with pytest.raises(ValueError, match="block 1 of stage 2 is 'skip', which leaves a block of mobilenetv2 out"):
        build(architecture.replace(stages=(stages[0], ("separable_k3", "skip"), *stages[2:])))


def test_stems() -> None:
    architecture = mobilenetv2_architecture(0.5, 10, (45, 38))
    x = torch.randn(1, 3, 45, 38)
    assert build(architecture).stem.eval()(x).shape == (1, 16, 23, 19)
    assert build(architecture.replace(stem="small")).stem.eval()(x).shape == (1, 16, 45, 38)


@pytest.mark.parametrize(
    ("value", "expected"), [(1, 8), (8, 8), (11.9, 16), (12, 16), (33.6, 32), (44.8, 48), (90, 88)]
)
def test_make_divisible(value: float, expected: int) -> None:
    assert make_divisible(value) == expected
    assert expected >= 0.9 * value
