"""Running statistics taken anew."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dicenas.evaluation import Data, DataConfig, load_data, recalibrate


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data(DataConfig(image_size=8, train_limit=60, val_limit=100))


def test_statistics_are_plain_averages_over_batches(digits: Data) -> None:
    norm = nn.BatchNorm2d(3, momentum=0.3)
    with torch.no_grad():
        norm.running_mean.fill_(7)
    frozen = nn.BatchNorm2d(3, track_running_stats=False)
    net = nn.Sequential(norm, nn.Dropout(0.5), frozen, nn.Flatten(), nn.Linear(192, 10)).train()
    seen: list[torch.Tensor] = []
    norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    recalibrate(net, digits, batches=4, batch=20, seed=1)
    assert [len(images) for images in seen] == [20, 20, 20]  # all that there are
    assert not torch.equal(seen[0], seen[1])
    expected = torch.stack([images.mean((0, 2, 3)) for images in seen]).mean(0)
    torch.testing.assert_close(norm.running_mean, expected)
    expected = torch.stack([images.transpose(0, 1).flatten(1).var(1) for images in seen]).mean(0)
    torch.testing.assert_close(norm.running_var, expected)
    assert norm.momentum == 0.3
    assert not any(module.training for module in net.modules())


def test_nothing_else_changes(digits: Data) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10))
    before = [parameter.detach().clone() for parameter in net.parameters()]
    state = torch.random.get_rng_state()
    recalibrate(net, digits, batches=1)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(("batches", "batch"), [(0, 10), (1, 1)])
def test_what_cannot_be_averaged_over(batches: int, batch: int, digits: Data) -> None:
    with pytest.raises(ValueError, match=f"batches {batches} and batch {batch} should be at least 1 and 2"):
        recalibrate(nn.Identity(), digits, batches=batches, batch=batch)
