"""Multiply-adds: thop under our rules, torch's own counter, the closed forms and published figures agree."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import pytest
import torch
import torchvision
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dicenas.cost import UncountedModuleError, count_macs, count_params, macs, register_macs_rule
from dicenas.nets import build, dicenet
from dicenas.nets.backbone import architecture_cost
from dicenas.ops import DiCE, DimConv
from dicenas.space import SpaceSpec

SPACES = [
    SpaceSpec(
        backbone,
        ("separable", "separable_se_k3", "dice", "skip"),
        widths=widths,
        depths=((1, 2),) * stages,
        stems=("small", "imagenet"),
        resolutions=(16, 37),
        num_classes=7,
    )
    for backbone, widths, stages in (
        ("shufflenetv2", (0.1, 0.2), 3),
        ("mobilenetv2", (0.25,), 7),
        ("mobilenetv1", (0.25,), 5),
        ("resnet", (0.1,), 4),
        ("shufflenetv2_torchvision", (0.5,), 3),
    )
]


def by_torch(module: nn.Module, *shape: int) -> dict[str, int]:
    """Multiply-adds by operator, as torch's FlopCounterMode sees them."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(torch.zeros(shape))
    return {str(op): flops // 2 for op, flops in counter.get_flop_counts()["Global"].items()}


@pytest.fixture(autouse=True)
def _rules_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(macs, "_RULES", dict(macs._RULES))


@settings(max_examples=8)
@given(st.sampled_from(SPACES), st.integers(0, 10**6))
def test_three_ways_to_count_an_architecture_agree(space: SpaceSpec, seed: int) -> None:
    architecture = space.random(Random(seed))
    net = build(architecture)
    counted = count_macs(net, (3, *architecture.image_size))
    assert counted == sum(by_torch(net, 1, 3, *architecture.image_size).values())
    assert counted == space.cost(architecture).macs == architecture_cost(architecture).macs
    assert count_params(net) == space.cost(architecture).params


@pytest.mark.parametrize("scale", [0.1, 0.2, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.4])
def test_dicenet_costs_what_upstream_s_does(scale: float, reference: Path) -> None:
    text = (reference / "reference" / "upstream_models.yaml").read_text(encoding="utf-8")
    expected = yaml.safe_load(text)["dicenet"][scale]
    net = dicenet(scale)
    assert (count_macs(net, (3, 224, 224)), count_params(net)) == (expected["conv_macs"], expected["params"])


def test_mobilenetv2_costs_what_is_published() -> None:
    assert count_macs(torchvision.models.mobilenet_v2(), (3, 224, 224)) == 300_774_272


def test_batch_multiplies() -> None:
    unit = DiCE(4, 6, size=(5, 7))
    assert count_macs(unit, (4, 5, 7), batch=3) == 3 * count_macs(unit, (4, 5, 7))


@given(
    st.integers(1, 5),
    st.sampled_from([3, 5]),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_dim_conv_at_any_size_counts_convolutions_and_not_resizing(
    channels: int, kernel_size: int, native: tuple[int, int], size: tuple[int, int]
) -> None:
    module = DimConv(channels, native, kernel_size)
    counted = count_macs(module, (channels, *size), batch=2)
    (height, width), (native_height, native_width) = size, native
    planes = height * width + native_height * width + height * native_width
    assert counted == 2 * channels * planes * kernel_size**2

    resizing = {"aten.bmm", "aten.mm"}
    seen = by_torch(module, 2, channels, *size)
    assert counted == sum(count for op, count in seen.items() if op not in resizing)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv1d(4, 6, 3, groups=2), (4, 9)),
        (nn.Conv2d(4, 6, (3, 1), stride=2, dilation=2, bias=False), (4, 9, 8)),
        (nn.Conv3d(2, 3, 2), (2, 4, 5, 6)),
        (nn.ConvTranspose1d(4, 6, 3, stride=2), (4, 9)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5, 6)),
        (nn.Linear(5, 3), (7, 5)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_layers_count_as_torch_counts_them(module: nn.Module, shape: tuple[int, ...]) -> None:
    assert count_macs(module, shape, batch=2) == sum(by_torch(module, 2, *shape).values()) > 0


@pytest.mark.parametrize(
    "module",
    [
        nn.BatchNorm2d(4),
        nn.SyncBatchNorm(4),
        nn.InstanceNorm2d(4, affine=True),
        nn.GroupNorm(2, 4),
        nn.LayerNorm((4, 6, 6)),
        nn.RMSNorm((4, 6, 6)),
        nn.PReLU(4),
        nn.LeakyReLU(),
        nn.Hardswish(),
        nn.Softmax(1),
        nn.MaxPool2d(2),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(3),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.UpsamplingNearest2d(scale_factor=2),
        nn.Dropout(),
    ],
    ids=lambda module: type(module).__name__,
)
def test_norms_activations_pooling_and_resizing_count_nothing(module: nn.Module) -> None:
    assert count_macs(module, (4, 6, 6)) == 0


def test_the_module_is_not_changed() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.PReLU(4), DimConv(4, (6, 6))))
    net[1].eval()
    modes = [m.training for m in net.modules()]
    before = {key: value.clone() for key, value in net.state_dict().items()}
    count_macs(net, (3, 6, 6))
    assert [m.training for m in net.modules()] == modes
    assert list(net.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(m._forward_hooks or hasattr(m, "total_ops") for m in net.modules())


def test_what_thop_left_in_a_module_is_not_counted_again() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1))
    for module in net.modules():
        module.register_buffer("total_ops", torch.full((1,), 1e6, dtype=torch.float64))
    assert count_macs(net, (3, 2, 2)) == 48


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Doubled(Scale):
    pass


class Composite(nn.Module):
    """Parameters of its own and a counted module inside."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3, 1, 1))
        self.inner = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(self.inner(x), self.weight)


class Block(nn.Sequential):
    pass


def test_every_uncounted_module_is_named() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ModuleDict({"gate": Scale()}), Composite())
    with pytest.raises(UncountedModuleError) as caught:
        count_macs(net, (3, 2, 2))
    message = str(caught.value)
    assert "1.gate (Scale)" in message
    assert "2 (Composite)" in message
    assert "register_macs_rule" in message
    assert "Conv2d" not in message


def test_an_uncounted_module_at_the_top_is_named() -> None:
    with pytest.raises(ValueError, match=r"the module itself \(Scale\)"):
        count_macs(Scale(), (3, 2, 2))


def test_a_rule_counts_subclasses_unless_they_have_their_own() -> None:
    register_macs_rule(Scale, lambda module, inputs, output: inputs[0].numel())
    net = nn.Sequential(Scale(), Doubled())
    assert count_macs(net, (3, 2, 2)) == 24
    register_macs_rule(Doubled, lambda module, inputs, output: 2 * output.numel())
    assert count_macs(net, (3, 2, 2)) == 36


def test_a_subclass_of_torch_s_layer_is_counted_as_that_layer() -> None:
    class Padded(nn.Conv2d):
        pass

    assert count_macs(Padded(3, 5, 1), (3, 2, 2)) == 60


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: nn.Sequential(m)], ids=["top", "nested"])
def test_a_rule_on_a_composite_covers_the_modules_inside(wrap: type[nn.Module]) -> None:
    register_macs_rule(Composite, lambda module, inputs, output: 7)
    assert count_macs(wrap(Composite()), (3, 2, 2)) == 7
    register_macs_rule(Block, lambda module, inputs, output: 5)
    assert count_macs(wrap(Block(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))), (3, 2, 2)) == 5


def test_a_shared_module_counts_once_a_call() -> None:
    conv = nn.Conv2d(3, 3, 1)
    net = nn.Sequential(nn.Sequential(conv, nn.ReLU()), nn.Sequential(conv, conv))
    assert count_macs(net, (3, 2, 2)) == 3 * 36
    assert count_params(net) == 12


def test_without_thop_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "thop.profile", None)
    with pytest.raises(ImportError, match=r"dicenas\[cost\]"):
        count_macs(nn.Linear(2, 2), (2,))


def test_count_params() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    net[0].weight.requires_grad_(False)
    assert count_params(net) == 108 + 4 + 8 + 10
    assert count_params(net, trainable_only=True) == 4 + 8 + 10
    assert count_params(nn.ReLU()) == 0
