"""Networks built from architectures, for every backbone alike."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dicenas.architecture import Architecture
from dicenas.nets import (
    Network,
    ShuffleNetV2,
    architecture_cost,
    build,
    dicenet_architecture,
    get_backbone,
    list_backbones,
    mobilenetv2_architecture,
    register_backbone,
)
from dicenas.space import SpaceSpec

OPS = ("separable", "separable_se", "dice", "skip")


def smallest_width(backbone: str) -> float:
    """The smallest published width, or 0.25 where widths are free."""
    family = get_backbone(backbone)
    return min(family.channels) if isinstance(family, ShuffleNetV2) else 0.25


def random_architecture(backbone: str, seed: int, **changes: Any) -> Architecture:
    """A small network with any mixture of ops."""
    family = get_backbone(backbone)
    space = SpaceSpec(backbone, OPS, (smallest_width(backbone),), ((1, 2),) * family.num_stages, num_classes=7)
    return space.random(Random(seed)).replace(**changes)


backbones = pytest.mark.parametrize("backbone", list_backbones())


@backbones
@settings(max_examples=6)
@given(
    seed=st.integers(0, 2**32),
    stem=st.sampled_from(("imagenet", "small")),
    size=st.tuples(st.integers(17, 45), st.integers(17, 45)),
    other=st.tuples(st.integers(17, 45), st.integers(17, 45)),
    in_channels=st.sampled_from((1, 3)),
)
def test_forward_and_backward(
    backbone: str, seed: int, stem: str, size: tuple[int, int], other: tuple[int, int], in_channels: int
) -> None:
    architecture = random_architecture(backbone, seed, stem=stem, image_size=size, in_channels=in_channels)
    net = build(architecture)
    assert isinstance(net, Network)
    assert net.architecture == architecture
    # The native size to train at, another one to run at, one image at a time.
    out = net(torch.randn(4, in_channels, *size))
    assert out.shape == (4, 7)
    nn.functional.cross_entropy(out, torch.tensor([0, 1, 2, 6])).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    with torch.no_grad():
        logits = net.eval()(torch.randn(1, in_channels, *other))
    assert logits.shape == (1, 7)
    assert logits.isfinite().all()


@backbones
def test_batch_and_single_images_agree(backbone: str) -> None:
    net = build(random_architecture(backbone, 3, stem="small", image_size=(19, 23))).double().eval()
    x = torch.randn(3, 3, 19, 23, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net(x), torch.cat([net(image[None]) for image in x]))


@backbones
def test_copies_and_states(backbone: str) -> None:
    architecture = random_architecture(backbone, 5, stem="small", image_size=(19, 23))
    net, other = build(architecture), build(architecture)
    x = torch.randn(4, 3, 19, 23)
    net(x)
    net.eval()
    twin = copy.deepcopy(net)
    other.eval().load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(twin(x), net(x))
        assert torch.equal(other(x), net(x))
    assert {p.data_ptr() for p in twin.parameters()}.isdisjoint(p.data_ptr() for p in net.parameters())
    assert len({p.data_ptr() for p in net.parameters()}) == len(list(net.parameters()))


@backbones
def test_seeds_fix_the_weights(backbone: str) -> None:
    architecture = random_architecture(backbone, 5, stem="small", image_size=(16, 16))
    states = []
    for _ in range(2):
        torch.manual_seed(11)
        states.append(build(architecture).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.slow
@backbones
def test_compiles_to_one_graph(backbone: str) -> None:
    net = build(random_architecture(backbone, 3, stem="small", image_size=(16, 16))).eval()
    x = torch.randn(2, 3, 17, 15)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="eager")(x), net(x))


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (
            dicenet_architecture(1.0).replace(backbone="resnext"),
            "unknown backbone 'resnext'; did you mean 'resnet'.*mobilenetv2",
        ),
        (dicenet_architecture(1.0).replace(width=0.6), "no width 0.6; published widths"),
        (mobilenetv2_architecture(9.0), "width 9.0 is outside"),
        (dicenet_architecture(1.0).replace(stages=(("dice_k3",),) * 2), "has 3 stages, got 2"),
        (dicenet_architecture(1.0).replace(stages=(("dice_k3",), (), ("dice_k3",))), "stage 2 .* has no block"),
        (mobilenetv2_architecture().replace(stages=((),) * 7), "stage 1 .* has no block"),
        (dicenet_architecture(1.0).replace(stages=(("dice_k9",),) * 3), "unknown candidate 'dice_k9'"),
        (dicenet_architecture(1.0).replace(stages=(("dise_k3",),) * 3), "unknown op 'dise'; did you mean 'dice'"),
        (
            dicenet_architecture(1.0).replace(stages=(("skip", "dice_k3"),) * 3),
            "op 'skip' does not fit into block 0 of stage 1 of shufflenetv2: 24 to 48 channels, stride 2",
        ),
        (
            mobilenetv2_architecture().replace(stages=(("separable_k3",), ("skip",)) + (("separable_k3",),) * 5),
            "op 'skip' does not fit into block 0 of stage 2 of mobilenetv2: 16 to 24 channels, stride 2",
        ),
    ],
)
def test_wrong_architectures(architecture: Architecture, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(architecture)
    with pytest.raises(ValueError, match=message):
        architecture_cost(architecture)


def test_backbones_are_registered_once() -> None:
    assert list_backbones() == [
        "mixnet",
        "mnasnet",
        "mobilenetv1",
        "mobilenetv2",
        "mobilenetv3_large",
        "mobilenetv3_small",
        "resnet",
        "shufflenetv2",
        "shufflenetv2_edgenets",
        "shufflenetv2_torchvision",
    ]
    with pytest.raises(ValueError, match="backbone 'mobilenetv2' is already registered"):
        register_backbone(get_backbone("mobilenetv2"))
    with pytest.raises(ValueError, match="unknown backbone 'mobilnetv2'; did you mean 'mobilenetv2'"):
        get_backbone("mobilnetv2")


@backbones
def test_layouts_hang_together(backbone: str) -> None:
    family = get_backbone(backbone)
    for seed in range(5):
        architecture = random_architecture(backbone, seed, image_size=(45, 38))
        layout = family.checked_layout(architecture)
        assert tuple(tuple(block.op for block in stage) for stage in layout.stages) == architecture.stages
        assert layout.stem.in_size == (45, 38)
        for before, after in zip(layout.blocks, layout.blocks[1:], strict=False):
            assert (before.out_channels, before.size) == (after.in_channels, after.in_size)
        for block in layout.blocks:
            assert block.size == tuple(-(-side // block.stride) for side in block.in_size)
        # What each module gives is what its block says.
        net = build(architecture).eval()
        x = torch.randn(1, 3, 45, 38)
        for module, block in zip(
            [net.stem, *(unit for stage in net.stages for unit in stage)], layout.blocks[:-1], strict=True
        ):
            x = module(x)
            assert x.shape[1:] == (block.out_channels, *block.size)
