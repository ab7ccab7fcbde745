"""Where multiply-adds go, held to the published counts by role; where time goes, held to a module that sleeps."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from dicenas.cost import (
    LAYER_KINDS,
    cost_by_kind,
    count_macs,
    count_params,
    layer_costs,
    layer_kind,
    module_times_ms,
)
from dicenas.nets import dicenet
from dicenas.ops import DimConv, SqueezeExcitation

ROLES = {
    "standard": ("conv1_standard",),
    "point-wise": ("pointwise",),
    "efficient": (
        *("depthwise", "dimconv_channel", "dimconv_height", "dimconv_width"),
        *("dimfuse_local_grouped1x1", "dimfuse_spatial_dw3x3"),
    ),
    "linear": ("dimfuse_se_fc", "classifier_grouped", "classifier_fc"),
    "other": (),
}


@pytest.mark.parametrize("scale", [0.1, 1.0, 2.4])
def test_kinds_are_the_reference_s_roles(scale: float, reference: Path) -> None:
    text = (reference / "reference" / "upstream_models.yaml").read_text(encoding="utf-8")
    roles = yaml.safe_load(text)["dicenet"][scale]["macs_by_role"]
    with torch.device("meta"):
        net = dicenet(scale)
    kinds = cost_by_kind(layer_costs(net, (3, 224, 224)))
    assert sorted(role for kind in ROLES.values() for role in kind) == sorted(roles)
    assert {kind: cost.macs for kind, cost in kinds.items()} == {
        kind: sum(roles[role] for role in members) for kind, members in ROLES.items()
    }


def test_kinds_add_up_and_name_each_layer_once() -> None:
    net = dicenet(0.1, 10, 64)
    layers = layer_costs(net, (3, 64, 64), batch=2)
    kinds = cost_by_kind(layers)
    assert tuple(kinds) == LAYER_KINDS
    assert sum(cost.macs for cost in kinds.values()) == count_macs(net, (3, 64, 64), batch=2)
    assert sum(cost.params for cost in kinds.values()) == count_params(net)
    names = [layer.name for layer in layers]
    assert len(set(names)) == len(names)
    assert all(net.get_submodule(name) for name in names)


@pytest.mark.parametrize(
    ("module", "out_shape", "kind"),
    [
        (nn.Conv2d(3, 8, 3), (1, 8, 4, 4), "standard"),
        (nn.Conv2d(3, 8, (1, 5)), (1, 8, 4, 4), "standard"),
        (nn.Conv2d(8, 8, 1), (1, 8, 4, 1), "point-wise"),
        (nn.Conv2d(8, 8, 1), (1, 8, 1, 1), "linear"),
        (nn.Conv2d(8, 8, 3, groups=8), (1, 8, 1, 1), "efficient"),
        (nn.Conv2d(8, 8, 1, groups=2), (1, 8, 4, 4), "efficient"),
        (nn.ConvTranspose2d(8, 8, 2), (1, 8, 4, 4), "standard"),
        (nn.Linear(3, 4), (1, 4), "linear"),
        (DimConv(4, (4, 4)), (1, 12, 4, 4), "efficient"),
        (nn.BatchNorm2d(4), (1, 4, 4, 4), "other"),
    ],
)
def test_kind_of_a_layer(module: nn.Module, out_shape: tuple[int, ...], kind: str) -> None:
    assert layer_kind(module, out_shape) == kind


def test_layers_of_a_gate_are_linear() -> None:
    layers = layer_costs(SqueezeExcitation(8), (8, 5, 5))
    assert [layer.name for layer in layers if layer.kind == "linear"] == ["reduce", "expand"]


class Sleeper(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return x


def test_times_are_of_all_calls_and_of_the_rest() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.once, self.unwatched = Sleeper(0.004), Sleeper(0.004), Sleeper(0.02)

        def forward(self, x: Tensor) -> Tensor:
            return self.unwatched(self.once(self.twice(self.twice(x))))

    net = Net().train()
    times = module_times_ms(net, ["twice", "once"], torch.zeros(1), repeats=3)
    assert list(times) == ["", "twice", "once"]
    # Lower bounds alone: a sleep is never shorter, but on a busy machine longer.
    assert times["twice"] >= 8
    assert times["once"] >= 4
    assert times[""] >= 20
    assert net.training
    assert net.twice.training
    assert not net._forward_hooks
    assert not net.twice._forward_hooks


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="nowhere"):
        module_times_ms(nn.Sequential(nn.Identity()), ["nowhere"], torch.zeros(1))
