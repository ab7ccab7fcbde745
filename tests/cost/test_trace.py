"""Tests of dicenas.cost.trace."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dicenas.cost.trace import Trace, trace_modules


def producers(trace: Trace) -> dict[str, str | None]:
    """Name of each called module with the name of the module whose output it takes."""
    names = {call.index: call.name for call in trace.calls}
    return {call.name: None if call.producer is None else names[call.producer] for call in trace.calls}


def test_chain_through_containers_and_in_place_activations() -> None:
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)), nn.Flatten(), nn.Linear(4, 2))
    trace = trace_modules(net, torch.zeros(1, 3, 3, 3))
    assert producers(trace) == {"": None, "0": None, "0.0": None, "0.1": "0.0", "1": "0.1", "2": "1"}
    assert {call.name for call in trace.calls if call.makes_output} == {"0.0", "0.1", "1", "2"}
    assert trace.output_shapes == ((1, 2),)
    assert trace.cost.macs == 3 * 4 * 9 + 4 * 2


class Functional(nn.Module):
    """Code between modules that a chain of modules must not hide."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.function(self.first(x)))  # type: ignore[operator]


def test_functions_between_modules_break_the_chain() -> None:
    for function in (F.relu, F.relu_, lambda x: x + 1, lambda x: x.mul_(2)):
        assert producers(trace_modules(Functional(function), torch.zeros(1, 3, 2, 2)))["second"] is None
    for view in (lambda x: x, lambda x: x.view(1, 3, 2, 2), lambda x: x.permute(0, 1, 3, 2)):
        assert producers(trace_modules(Functional(view), torch.zeros(1, 3, 2, 2)))["second"] == "first"


def test_the_network_keeps_its_state() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    net[1].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    trace_modules(net, torch.randn(2, 3, 4, 4))
    assert [module.training for module in net] == [True, False, True]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_shared_modules_are_watched_once_and_counted_twice() -> None:
    shared = nn.Conv2d(3, 3, 1)
    trace = trace_modules(nn.Sequential(shared, nn.ReLU(), shared), torch.zeros(1, 3, 2, 2))
    assert trace.times_called()[shared] == 2
    assert [call.name for call in trace.calls] == ["", "0", "1", "0"]
