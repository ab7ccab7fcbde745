"""Narrow modules take of wide ones what belongs to the same channels, rows and branches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dicenas.ops import DiCE, DimConv, JoinedDimConv, SeparableConv, prefixes, row_positions, special_slices
from dicenas.ops.slicing import Positions


def taken(wide: nn.Module, narrow: nn.Module) -> dict[str, torch.Tensor]:
    """What a narrow module takes, with the wide module's parameters numbered through."""
    numbered = {name: torch.arange(p.numel()).view(p.shape) for name, p in wide.named_parameters()}
    return {
        name: numbered[name][torch.meshgrid(*map(torch.tensor, positions), indexing="ij")]
        for name, positions in prefixes(wide, narrow).items()
    }


def test_layers_take_the_first_channels() -> None:
    wide, narrow = SeparableConv(6, 10), SeparableConv(4, 7)
    found = taken(wide, narrow)
    assert found.keys() == dict(narrow.named_parameters()).keys()
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        name: tuple(parameter.shape) for name, parameter in narrow.named_parameters()
    }
    assert found["depthwise.conv.weight"].flatten().tolist() == list(range(4 * 9))
    assert found["pointwise.conv.weight"].flatten(1).tolist() == [list(range(6 * row, 6 * row + 4)) for row in range(7)]
    assert found["pointwise.norm.weight"].tolist() == list(range(7))


@pytest.mark.parametrize("unit", [DiCE, JoinedDimConv])
def test_each_branch_is_sliced_apart(unit: type[nn.Module]) -> None:
    found = taken(unit(8, 8, (4, 4)), unit(5, 5, (4, 4)))
    for name in ("norm.weight", "norm.bias", "act.weight"):
        assert found[name].tolist() == [*range(5), *range(8, 13), *range(16, 21)]


def test_groups_of_another_shape_are_not_shared() -> None:
    # 8 to 12 channels: 4 groups of 2 and 3 channels.
    alike = prefixes(DiCE(8, 12, (4, 4)), DiCE(4, 6, (4, 4)))
    assert "dim_fuse.spatial.conv.weight" in alike
    other = prefixes(DiCE(8, 12, (4, 4)), DiCE(4, 8, (4, 4)))
    assert "dim_fuse.spatial.conv.weight" not in other
    assert "dim_fuse.spatial.norm.weight" in other
    assert prefixes(nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(4, 4, 1, groups=2)) == {}


def test_rows_are_those_nearest_in_the_image() -> None:
    assert row_positions(2, 4) == (1, 3)
    assert row_positions(3, 3) == (0, 1, 2)
    found = taken(DimConv(4, (6, 8)), DimConv(3, (2, 8)))
    assert found["weight_height"][:, 0, 0, 0].tolist() == [9 * 1, 9 * 4]
    assert found["weight_width"].flatten().tolist() == list(range(8 * 9))
    assert found["weight_channel"].flatten().tolist() == list(range(3 * 9))


def test_what_only_one_has_is_left_out() -> None:
    wide = nn.Sequential(nn.Linear(4, 4), nn.PReLU(4))
    assert set(prefixes(wide, nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)))) == {"0.weight", "0.bias"}
    assert prefixes(nn.Linear(4, 4), nn.Linear(4, 4, bias=False)).keys() == {"weight"}
    assert prefixes(nn.Linear(4, 4, bias=False), nn.Linear(4, 4)).keys() == {"weight"}
    assert prefixes(nn.Linear(4, 4), nn.Linear(2, 5)) == {}


def test_a_class_may_say_otherwise() -> None:
    class Suffix(nn.Linear):
        pass

    @special_slices.register(Suffix)
    def _last_rows(narrow: Suffix, wide: Suffix) -> dict[str, Positions]:
        rows = range(wide.out_features - narrow.out_features, wide.out_features)
        return {"weight": (rows, range(narrow.in_features))}

    found = prefixes(nn.Sequential(Suffix(2, 5)), nn.Sequential(Suffix(2, 3)))
    assert found == {"0.weight": (range(2, 5), range(2)), "0.bias": (range(3),)}
