"""The DiCE unit and its fusion; that they equal the published ones is shown in ``tests/nets/test_edgenets.py``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dicenas.ops import DiCE, DimFuse, StridedDiCE


@pytest.mark.parametrize("out_channels", [8, 12, 5])
@pytest.mark.parametrize("size", [(7, 6), (1, 1), (10, 3)])
def test_unit_keeps_the_size_of_any_input(out_channels: int, size: tuple[int, int]) -> None:
    unit = DiCE(8, out_channels, size=(7, 6)).eval()
    assert unit(torch.randn(2, 8, *size)).shape == (2, out_channels, *size)


@pytest.mark.parametrize("size", [(14, 12), (13, 11), (9, 20)])
def test_strided_unit_halves_and_doubles(size: tuple[int, int]) -> None:
    unit = StridedDiCE(6, size=(7, 6)).eval()
    expected = (2, 12, (size[0] + 1) // 2, (size[1] + 1) // 2)
    assert unit(torch.randn(2, 6, *size)).shape == expected


def test_fusion_of_branches_sees_each_channel_s_own() -> None:
    fuse = DimFuse(4, 4).double().eval()
    x = torch.randn(1, 12, 3, 3, dtype=torch.float64)
    before = fuse.local(fuse.shuffle(x))
    changed = x.clone()
    changed[:, [2, 6, 10]] += 1  # the three branches of channel 2
    differs = (fuse.local(fuse.shuffle(changed)) != before).flatten(2).any(2)
    assert differs.tolist() == [[False, False, True, False]]


def test_without_shuffle_fusion_takes_neighbours() -> None:
    fuse = DimFuse(4, 4, shuffle=False).double().eval()
    x = torch.randn(1, 12, 3, 3, dtype=torch.float64)
    before = fuse.local(fuse.shuffle(x))
    changed = x.clone()
    changed[:, [6, 7, 8]] += 1
    differs = (fuse.local(fuse.shuffle(changed)) != before).flatten(2).any(2)
    assert differs.tolist() == [[False, False, True, False]]


def test_fusion_takes_any_number_of_branches() -> None:
    fuse = DimFuse(4, 6, branches=2).eval()
    assert fuse(torch.randn(1, 8, 3, 3)).shape == (1, 6, 3, 3)


def test_linear_unit_has_no_last_activation() -> None:
    unit = DiCE(8, 8, size=(5, 5), activation="relu").eval()
    linear = DiCE(8, 8, size=(5, 5), activation="relu", final_activation=False).eval()
    linear.load_state_dict(unit.state_dict())
    x = torch.randn(2, 8, 5, 5)
    assert unit(x).min() == 0
    assert linear(x).min() < 0
    # The gate is positive, so the activation commutes with it.
    torch.testing.assert_close(linear(x).relu(), unit(x))


def test_activation_is_used_throughout() -> None:
    kinds = {type(module) for module in StridedDiCE(8, size=(4, 4), activation="hardswish").modules()}
    assert nn.Hardswish in kinds
    assert nn.PReLU not in kinds


@pytest.mark.parametrize("unit", [DiCE(8, 12, size=(5, 6)), StridedDiCE(8, size=(5, 6))], ids=["DiCE", "StridedDiCE"])
def test_channels_last_gives_the_same(unit: nn.Module) -> None:
    unit = unit.double().eval()
    x = torch.randn(2, 8, 10, 12, dtype=torch.float64)
    expected = unit(x)
    torch.testing.assert_close(unit(x.contiguous(memory_format=torch.channels_last)), expected)


def test_exports_with_a_free_batch() -> None:
    unit = StridedDiCE(8, size=(5, 6)).eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(unit, (torch.randn(2, 8, 9, 13),), dynamic_shapes=({0: batch},))
    x = torch.randn(3, 8, 9, 13)
    torch.testing.assert_close(program.module()(x), unit(x))


def test_compiles_to_one_graph() -> None:
    unit = DiCE(8, 12, size=(5, 6))
    x = torch.randn(2, 8, 7, 4, requires_grad=True)
    torch.testing.assert_close(torch.compile(unit.eval(), fullgraph=True, backend="eager")(x), unit(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 3}, "in_channels 3 is below 4"),
        ({"out_channels": 0}, "out_channels 0"),
        ({"kernel_size": 2}, "kernel_size 2 is even"),
        ({"size": (0, 4)}, "size"),
        ({"dilation": (0, 1, 1)}, "dilation"),
        ({"activation": "prelo"}, "unknown activation 'prelo'; expected one of .*prelu"),
    ],
)
def test_impossible_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiCE(**({"in_channels": 8, "out_channels": 8, "size": (4, 4)} | arguments))


def test_impossible_strided_unit() -> None:
    with pytest.raises(ValueError, match="in_channels 3 is below 4"):
        StridedDiCE(3, size=(4, 4))
