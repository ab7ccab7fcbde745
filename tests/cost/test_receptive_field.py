"""Receptive fields of modules whose reach is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dicenas.cost import ReceptiveField, candidate_fits, profile_candidate, receptive_field
from dicenas.ops import CandidateArguments, SqueezeExcitation


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Conv2d(2, 3, 1), ReceptiveField(1, 1, False)),
        (nn.Conv2d(2, 3, (5, 3), padding=(2, 1)), ReceptiveField(5, 3, False)),
        (nn.Conv2d(2, 3, 3, padding=2, dilation=2), ReceptiveField(5, 5, False)),
        (nn.Sequential(nn.Conv2d(2, 2, 3, 2, 1), nn.Conv2d(2, 2, 3, 1, 1)), ReceptiveField(7, 7, False)),
        (nn.Sequential(nn.Conv2d(2, 8, 3, 1, 1), SqueezeExcitation(8)), ReceptiveField(3, 3, True)),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Upsample(15)), ReceptiveField(0, 0, True)),
    ],
)
def test_known_modules(module: nn.Module, expected: ReceptiveField) -> None:
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert receptive_field(module, (2, 15, 15)) == expected
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("candidate", "stride", "expected"),
    [
        ("skip", 1, "1"),
        ("separable_k7", 1, "7"),
        ("stacked_k7", 1, "7"),
        ("stacked_k5", 2, "7"),
        ("dilated_k3", 1, "5"),
        ("factorized_k7", 1, "7"),
        ("mixed_k11", 1, "11"),
        ("dice_k3", 1, "5 + global"),
        ("dice_k3", 2, "11 + global"),
        ("dw_pw_se_k3", 1, "3 + global"),
    ],
)
def test_candidates(candidate: str, stride: int, expected: str) -> None:
    arguments = CandidateArguments(16, 16, stride, (9, 9), 1, "prelu", True)
    assert str(profile_candidate(candidate, arguments).receptive_field) == expected


def test_candidates_that_do_not_fit() -> None:
    arguments = CandidateArguments(3, 8, 2, (4, 4), 1, "relu", True)
    assert not candidate_fits("dice_k3", arguments)
    assert candidate_fits("conv_k3", arguments)
    with pytest.raises(ValueError, match="'dice' cannot map 3 to 8"):
        profile_candidate("dice_k3", arguments)
    with pytest.raises(ValueError, match="did you mean 'dice'"):
        candidate_fits("dise_k3", arguments)


def test_flat_activations_hide_nothing() -> None:
    """A squeeze-and-excitation of two hidden channels is dead for many weights; it sees the map all the same."""
    for seed in range(20):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Conv2d(2, 8, 3, 1, 1), nn.ReLU6(), SqueezeExcitation(8))
        assert receptive_field(module, (2, 15, 15)) == ReceptiveField(3, 3, True)
