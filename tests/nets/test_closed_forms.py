"""Closed forms of blocks and networks against what torch counts, for every backbone and every candidate op."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dicenas.architecture import Architecture
from dicenas.nets import Backbone, BlockSpec, ShuffleNetV2, architecture_cost, build, get_backbone, list_backbones
from dicenas.ops import Cost, expand_candidates, get_op, list_ops
from dicenas.space import SpaceSpec

backbones = pytest.mark.parametrize("backbone", list_backbones())


def widths(family: Backbone) -> tuple[float, ...]:
    """The published widths, or some where widths are free."""
    return tuple(family.channels) if isinstance(family, ShuffleNetV2) else (0.1, 0.25, 0.6, 1.0)


def counted(module: nn.Module, in_channels: int, size: tuple[int, int]) -> Cost:
    """MACs and parameters of a module on the meta device as torch counts them."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(torch.empty(1, in_channels, *size, device="meta"))
    return Cost(counter.get_total_flops() // 2, sum(parameter.numel() for parameter in module.parameters()))


def places(backbone: str, width: float, size: tuple[int, int]) -> Iterator[tuple[int, BlockSpec]]:
    """The blocks in which an op can stand, with the number of their stage."""
    family = get_backbone(backbone)
    space = SpaceSpec(backbone, widths=(width,), depths=((2,),) * family.num_stages)
    architecture = space.random(Random(0)).replace(image_size=size)
    for number, stage in enumerate(family.layout(architecture).stages, 1):
        for block in stage:
            yield number, block


def assert_blocks_cost_what_they_say(family: Backbone, place: BlockSpec, names: Sequence[str]) -> None:
    fitting = family.fitting(place, names)
    assert fitting
    for name in fitting:
        block = family.block_with_op(place, name)
        with torch.device("meta"):
            module = family.build_block(block)
        assert family.block_cost(block) == counted(module, block.in_channels, block.in_size), block


@backbones
def test_closed_form_of_every_op(backbone: str) -> None:
    family = get_backbone(backbone)
    # A block that sets the shape of its stage, at an odd size.
    number, place = next((n, b) for n, b in places(backbone, widths(family)[0], (45, 38)) if n > 1 and b.stride == 2)
    ops = [get_op(name).candidates[-1] for name in list_ops()]
    assert_blocks_cost_what_they_say(family, place, family.block_names(number, ops, family.expansions[:1], ()))


@pytest.mark.slow
@backbones
def test_closed_form_of_every_op_in_every_place(backbone: str) -> None:
    family = get_backbone(backbone)
    names = expand_candidates(list_ops())
    for width in (widths(family)[0], 1.0):
        for number, place in places(backbone, width, (75, 51)):
            assert_blocks_cost_what_they_say(family, place, family.block_names(number, names, family.expansions, ()))


@backbones
@settings(max_examples=3)
@given(
    seed=st.integers(0, 2**32),
    stem=st.sampled_from(("imagenet", "small")),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    in_channels=st.sampled_from((1, 3)),
    data=st.data(),
)
def test_closed_form_of_a_network(
    backbone: str, seed: int, stem: str, size: tuple[int, int], in_channels: int, data: st.DataObject
) -> None:
    family = get_backbone(backbone)
    width = cast(float, data.draw(st.sampled_from(widths(family))))
    space = SpaceSpec(backbone, tuple(list_ops()), (width,), ((1, 2),) * family.num_stages, num_classes=7)
    architecture: Architecture = space.random(Random(seed)).replace(stem=stem, image_size=size, in_channels=in_channels)
    with torch.device("meta"):
        net = build(architecture)
    assert architecture_cost(architecture) == counted(net, in_channels, size)
