from __future__ import annotations

import pytest
import torch
from torch import nn

from dicenas.cost import LatencySettings, count_macs, count_params, profile_blocks
from dicenas.nets import dicenet
from dicenas.ops import Cost


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return dicenet(0.1, 10, 64)


BLOCKS = ["stem", *(f"stages.{i}.{j}" for i, depth in enumerate((3, 7, 3)) for j in range(depth + 1)), "head"]


@pytest.mark.parametrize("runtime", ["eager", "kernels", "fused", "compiled"])
def test_blocks_add_up(net: nn.Module, runtime: str) -> None:
    profiles = profile_blocks(net, BLOCKS, (3, 64, 64), LatencySettings(batch=2, threads=1, runtime=runtime))
    assert [profile.name for profile in profiles] == BLOCKS
    total = sum((profile.cost for profile in profiles), Cost())
    assert total == Cost(count_macs(net, (3, 64, 64)), count_params(net))
    for profile in profiles:
        assert (profile.time_ms is not None) == (runtime != "compiled")
        assert profile.time_ms is None or profile.time_ms > 0
        assert (profile.times_ms is not None) == (runtime in ("eager", "kernels"))
        for kind, spent in (profile.times_ms or {}).items():
            # A kind that a block has no layer of takes no time.
            if kind != "other":
                assert (spent > 0) == (profile.costs[kind].macs > 0), (profile.name, kind)


def test_names_are_taken_whole() -> None:
    net = nn.Sequential(nn.Linear(2, 3), *(nn.Linear(3, 3) for _ in range(10)))
    profiles = profile_blocks(net, ["1", "10"], (2,), LatencySettings())
    assert [profile.cost.params for profile in profiles] == [12, 12]


def test_a_block_that_is_not_there(net: nn.Module) -> None:
    with pytest.raises(AttributeError, match="tail"):
        profile_blocks(net, ["stem", "tail"], (3, 64, 64), LatencySettings())


def test_blocks_are_timed_on_the_gpu(gpu: torch.device, net: nn.Module) -> None:
    profiles = profile_blocks(net, BLOCKS, (3, 64, 64), LatencySettings(device=str(gpu), batch=4))
    for profile in profiles:
        assert profile.times_ms is not None
        assert profile.time_ms is not None
        assert profile.time_ms > 0
    assert not any(parameter.is_cuda for parameter in net.parameters())
