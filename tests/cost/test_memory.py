"""Peak memory of activations: nets that are reckoned by hand, and torch's own record of its allocations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from dicenas.cost import peak_memory_mb
from dicenas.nets import dicenet

PIXELS = 8 * 8
CHANNEL = 4 * PIXELS  # bytes of one float32 channel


def peak_channels(module: nn.Module, in_channels: int = 4) -> float:
    """Peak in float32 channels of 8 x 8."""
    return round(peak_memory_mb(module, (in_channels, 8, 8)) * 10**6) / CHANNEL


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(4, 16, 1), nn.Conv2d(16, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x * 2
        return x + self.branch(x)


class Forgetful(nn.Module):
    """Drops what it no longer needs, in contrast to the branch of a residual."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((x, x, x, x), 1)
        x = x[:, :1].clone()
        return torch.cat((x, x, x, x), 1)


class Views(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).view(x.shape).transpose(2, 3)[:, :2].squeeze(0)


def chain(inplace: bool) -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU(inplace=inplace), nn.Conv2d(8, 2, 1))


@pytest.mark.parametrize(
    ("module", "channels"),
    [
        (nn.Identity(), 4),
        (nn.ReLU(), 4 + 4),
        (nn.ReLU(inplace=True), 4),
        # The caller holds the input: input, convolved and rectified.
        (chain(inplace=False), 4 + 8 + 8),
        (chain(inplace=True), 4 + 8 + 2),
        # Input, doubled, wide and narrow; then wide is gone when the sum is made.
        (Residual(), 4 + 4 + 16 + 4),
        # Input, repeated, copy of a channel; the repeated ones are gone when the copy is.
        (Forgetful(), 4 + 16 + 1),
        (Views(), 4),
    ],
)
def test_peaks_reckoned_by_hand(module: nn.Module, channels: int) -> None:
    assert peak_channels(module) == channels


@pytest.mark.parametrize(
    "module",
    [
        chain(inplace=False),
        chain(inplace=True),
        Residual(),
        Forgetful(),
        Views(),
        nn.Sequential(nn.Conv2d(4, 6, 1), nn.PReLU(6), nn.MaxPool2d(2), nn.Sigmoid()),
        nn.MaxPool2d(2),  # allocates int64 indices beside its output
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)),
    ],
    ids=["chain", "inplace", "residual", "forgetful", "views", "pool", "indices", "classifier"],
)
def test_the_peak_is_that_of_torch_s_allocations(module: nn.Module) -> None:
    module.eval()
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        module(torch.empty(1, 4, 8, 8))
    live = peak = 0
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    assert peak_channels(module) * CHANNEL == peak


def test_batch_and_dtype_scale() -> None:
    net = chain(inplace=False)
    once = peak_memory_mb(net, (4, 8, 8))
    assert peak_memory_mb(net, (4, 8, 8), batch=3) == pytest.approx(3 * once)
    assert peak_memory_mb(net, (4, 8, 8), dtype=torch.float16) == pytest.approx(once / 2)
    assert peak_memory_mb(net, (4, 8, 8), dtype=torch.float64) == once * 2


def test_weights_do_not_count() -> None:
    wide = nn.Linear(1000, 2)
    assert round(peak_memory_mb(wide, (1000,)) * 10**6) == 4 * 1002


def test_the_module_is_not_changed() -> None:
    net = dicenet(0.1, num_classes=5, image_size=32)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert 0 < peak_memory_mb(net, (3, 32, 32), dtype=torch.float16) < peak_memory_mb(net, (3, 32, 32)) < 1
    assert all(m.training for m in net.modules())
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) and after[key].dtype == before[key].dtype for key in before)


def test_a_pass_leaves_no_trace_for_the_next() -> None:
    net = Residual()
    assert peak_channels(net) == peak_channels(net)


def test_unknown_device() -> None:
    with pytest.raises(ValueError, match="meta"):
        peak_memory_mb(nn.Identity(), (1,), device="meta")
