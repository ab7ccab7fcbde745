"""Tests of dicenas.space.vectorized: sums over many architectures are those over each."""

from __future__ import annotations

import pytest
import torch

from dicenas.nets import get_backbone, list_backbones
from dicenas.space import SpaceSpec
from dicenas.space.vectorized import VectorizedSpace


@pytest.mark.parametrize("image_size", [None, 97])
@pytest.mark.parametrize("backbone", list_backbones())
def test_closed_form_costs_of_many_architectures_are_those_of_each(backbone: str, image_size: int | None) -> None:
    space = SpaceSpec(backbone, resolutions=(32, 96), stems=("small", "imagenet"))
    family = get_backbone(backbone)
    vectorized = VectorizedSpace(space, image_size)
    costs = vectorized.sums(lambda block: [(cost := family.block_cost(block)).macs, cost.params])
    rows = vectorized.random(30, torch.Generator().manual_seed(0))
    architectures = vectorized.decode(rows)
    sized = [a if image_size is None else a.at_size(image_size) for a in architectures]
    assert costs(rows).tolist() == [[(cost := space.cost(a)).macs, cost.params] for a in sized]
    assert torch.equal(costs(vectorized.encode(architectures)), costs(rows))
    assert all(block in vectorized.blocks for a in sized for block in family.layout(a).blocks)


def test_a_space_without_choices() -> None:
    space = SpaceSpec("shufflenetv2", ("dice_k3",), (1.0,), ((3,), (7,), (3,)))
    vectorized = VectorizedSpace(space)
    (architecture,) = vectorized.decode(vectorized.random(1))
    macs = vectorized.sums(lambda block: [get_backbone("shufflenetv2").block_cost(block).macs])
    assert macs(vectorized.encode([architecture])).item() == space.cost(architecture).macs


def test_architectures_of_other_spaces() -> None:
    first, second = (SpaceSpec("shufflenetv2", ("dice_k3",), (width,), ((1,), (1,), (1,))) for width in (0.5, 1.0))
    with pytest.raises(ValueError, match="not a point of this"):
        VectorizedSpace(first).encode(second.enumerate())
