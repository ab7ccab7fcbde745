"""The inverted residuals of MobileNetV3, MnasNet and MixNet: the names of their blocks, and what the blocks are."""

from __future__ import annotations

from random import Random

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dicenas.architecture import Architecture
from dicenas.nets import (
    InvertedResidual,
    NamedBlocksBackbone,
    architecture_cost,
    build,
    get_backbone,
    list_backbones,
    mixnet_architecture,
    mnasnet_architecture,
    mobilenetv3_architecture,
)
from dicenas.nets.searched import BlockName, parse_block_name
from dicenas.ops import Cost, SeparableConv, SqueezeExcitation
from dicenas.ops.mixed import MixedSeparableConv
from dicenas.space import SpaceSpec

FAMILIES = [name for name in list_backbones() if isinstance(get_backbone(name), NamedBlocksBackbone)]
families = pytest.mark.parametrize("backbone", FAMILIES)


def family(name: str) -> NamedBlocksBackbone:
    found = get_backbone(name)
    assert isinstance(found, NamedBlocksBackbone)
    return found


def counted(architecture: Architecture) -> Cost:
    """MACs and parameters of the built network as torch counts them."""
    with torch.device("meta"):
        net = build(architecture).eval()
        x = torch.empty(1, architecture.in_channels, *architecture.image_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(x)
    return Cost(counter.get_total_flops() // 2, sum(parameter.numel() for parameter in net.parameters()))


# Names of blocks


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("separable_hse_k5_e6", BlockName("separable_hse_k5", 6.0)),
        ("dice_k3_e2.5", BlockName("dice_k3", 2.5)),
        ("mixed_k7_e3_relu6", BlockName("mixed_k7", 3.0, "relu6")),
        ("skip", BlockName("skip")),
    ],
)
def test_names(name: str, expected: BlockName) -> None:
    assert parse_block_name(name) == expected
    assert str(expected) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("separable_k3", "block 'separable_k3' has no expansion: blocks are called <candidate>_e<expansion>, such as"),
        ("separable_k3_e", "has no expansion"),
        ("separable_k3_e-6", "has no expansion"),
        ("separable_k3_e6.0", "'separable_k3_e6.0' should be written 'separable_k3_e6'"),
        ("separable_k3_e06", "should be written 'separable_k3_e6'"),
        ("separable_k3_e2.50_relu", "should be written 'separable_k3_e2.5_relu'"),
        ("separable_k3_e0", "expansion 0 is outside 0.1 to 32"),
        ("separable_k3_e99", "expansion 99 is outside 0.1 to 32"),
        ("separable_k3_e6_rely", "unknown activation 'rely'; did you mean 'relu'"),
        ("seperable_k3_e6", "unknown op 'seperable'; did you mean 'separable'"),
        ("separable_k9_e6", "unknown candidate 'separable_k9'"),
        ("separable_e6", "unknown candidate 'separable'"),
        ("skip_e6", "skip is the identity, whatever its expansion"),
        ("", "has no expansion"),
    ],
)
def test_wrong_names(name: str, message: str) -> None:
    architecture = mobilenetv3_architecture("small")
    with pytest.raises(ValueError, match=message):
        build(architecture.replace(stages=((name,), *architecture.stages[1:])))


def test_a_network_has_one_description() -> None:
    architecture = mobilenetv3_architecture("small", 0.25, 10, 32)
    stages = architecture.stages
    # The activation of the stage is not said again ...
    with pytest.raises(ValueError, match="its stage has relu anyway; write 'separable_k3_e3'"):
        build(architecture.replace(stages=(("separable_k3_e3_relu",), *stages[1:])))
    # ... and a block that is left out is not mentioned.
    with pytest.raises(ValueError, match="block 1 of stage 2 is 'skip', which leaves a block of mobilenetv3_small out"):
        build(architecture.replace(stages=(stages[0], ("separable_k3_e3", "skip"), *stages[2:])))


# What the blocks are


def test_a_block_is_what_its_name_says() -> None:
    names = ("dice_k3_e4", "separable_hse_k5_e3", "mixed_hse_k7_e2.5_silu", "separable_k3_e1_relu")
    stages = mobilenetv3_architecture("small").stages
    architecture = mobilenetv3_architecture("small").replace(stages=(*stages[:2], names, *stages[3:]))
    _, se, mixed, plain = build(architecture).stages[2]
    for block in (se, mixed, plain):
        assert isinstance(block, InvertedResidual)
        assert block.residual
    # 40 channels, three times that many, and the activation of the stage.
    assert se.expand.conv.out_channels == 120
    assert isinstance(se.expand.act, nn.Hardswish)
    assert isinstance(se.op, SeparableConv)
    assert isinstance(se.op.depthwise.act, nn.Hardswish)
    assert isinstance(se.op.se, SqueezeExcitation)
    assert isinstance(se.op.se.gate, nn.Hardsigmoid)
    assert mixed.expand.conv.out_channels == 104  # 100, in multiples of 8
    assert isinstance(mixed.expand.act, nn.SiLU)
    assert isinstance(mixed.op, MixedSeparableConv)
    assert isinstance(mixed.op.act, nn.SiLU)
    # Nothing to expand.
    assert isinstance(plain.expand, nn.Identity)
    assert isinstance(plain.op.depthwise.act, nn.ReLU)


@families
def test_normalisations_are_the_family_s(backbone: str) -> None:
    expected = {
        "mobilenetv3_large": (1e-3, 0.01),
        "mobilenetv3_small": (1e-3, 0.01),
        "mnasnet": (1e-5, 1 - 0.9997),
        "mixnet": (1e-5, 0.1),
    }[backbone]
    architecture = SpaceSpec(backbone, widths=(0.25,), resolutions=(32,)).random(Random(0))
    norms = [module for module in build(architecture).modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) > 20
    assert {(norm.eps, norm.momentum) for norm in norms} == {expected}


@families
@settings(max_examples=3)
@given(
    seed=st.integers(0, 2**32),
    stem=st.sampled_from(("imagenet", "small")),
    size=st.tuples(st.integers(17, 70), st.integers(17, 70)),
    width=st.sampled_from((0.1, 0.35, 1.0)),
)
def test_closed_form_costs_at_odd_sizes(
    backbone: str, seed: int, stem: str, size: tuple[int, int], width: float
) -> None:
    ops = ("separable", "separable_se", "separable_hse", "mixed", "mixed_hse", "dice", "skip")
    space = SpaceSpec(backbone, ops, (width,), expansions=(0.5, 1, 2.3, 6), activations=("prelu", "relu", "silu"))
    architecture = space.random(Random(seed)).replace(stem=stem, image_size=size, num_classes=7)
    assert architecture_cost(architecture) == counted(architecture)


def test_reference_costs_as_published() -> None:
    """Parameters and MACs as torchvision's documentation has them, in millions."""
    for architecture, params, macs in (
        (mobilenetv3_architecture("large"), 5.483032, 217),
        (mobilenetv3_architecture("small"), 2.542856, 57),
        (mnasnet_architecture(0.5), 2.218512, 104),
        (mnasnet_architecture(1.0), 4.383312, 314),
    ):
        cost = architecture_cost(architecture)
        assert cost.params == round(params * 1e6)
        assert round(cost.macs / 1e6) == macs


def test_mixnet_has_the_stages_of_mixnet_s() -> None:
    """Channels, strides and kernels are the published network's, block by block; timm's is the reference."""
    theirs = timm.create_model("mixnet_s")
    ours = build(mixnet_architecture())
    layout = family("mixnet").layout(mixnet_architecture())
    for stage, blocks, specs in zip(ours.stages, theirs.blocks, layout.stages, strict=True):
        for block, reference, spec in zip(stage, blocks, specs, strict=True):
            depthwise = reference.conv_dw
            convs = depthwise.values() if isinstance(depthwise, nn.ModuleDict) else [depthwise]
            own = block.op.depthwise.convs if isinstance(block.op, MixedSeparableConv) else [block.op.depthwise.conv]
            assert [(conv.kernel_size, conv.out_channels, conv.stride) for conv in own] == [
                (conv.kernel_size, conv.out_channels, conv.stride) for conv in convs
            ]
            last = reference.conv_pwl if hasattr(reference, "conv_pwl") else reference.conv_pw
            parts = last.values() if isinstance(last, nn.ModuleDict) else [last]
            assert sum(conv.out_channels for conv in parts) == spec.out_channels
            assert type(block.op.act if isinstance(block.op, MixedSeparableConv) else block.op.depthwise.act) in {
                type(module) for module in reference.modules()
            }
    assert ours.head.conv.conv.out_channels == theirs.conv_head.out_channels
