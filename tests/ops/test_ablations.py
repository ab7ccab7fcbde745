"""The ops of DiCENet's ablations: what each is made of, and what whole networks of them cost."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dicenas.architecture import Architecture
from dicenas.nets import architecture_cost, build
from dicenas.ops import (
    ConvNormAct,
    DiCE,
    EfficientPWConv,
    JoinedDimConv,
    PooledShuffleUnit,
    SqueezeExcitation,
    build_op,
    get_op,
)


def kinds(module: nn.Module) -> list[type[nn.Module]]:
    return [type(layer) for layer in module.children()]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dw_pw", [ConvNormAct, ConvNormAct]),
        ("dw_se", [ConvNormAct, SqueezeExcitation]),
        ("dw_pw_se", [ConvNormAct, ConvNormAct, SqueezeExcitation]),
        ("dw_dimfuse", [ConvNormAct, EfficientPWConv]),
        ("dimconv_pw", [JoinedDimConv, ConvNormAct]),
        ("dimconv_se", [JoinedDimConv, SqueezeExcitation]),
        ("dimconv_pw_se", [JoinedDimConv, ConvNormAct, SqueezeExcitation]),
        ("dimfuse_dw_dimfuse", [ConvNormAct, EfficientPWConv]),
    ],
)
def test_layers_of_an_op(name: str, expected: list[type[nn.Module]]) -> None:
    module = build_op(name, 8, 12, size=(4, 4))
    assert kinds(module) == expected
    first = module.get_submodule("0")
    if isinstance(first, ConvNormAct):
        assert first.conv.groups == (4 if name == "dw_se" else 8)  # as many groups as channels allow
    assert isinstance(build_op("dimfuse_dimconv_dimfuse", 8, 12, size=(4, 4)), DiCE)


def test_joined_dimconv_is_the_dice_unit_up_to_its_local_fusion() -> None:
    unit = DiCE(8, 8, (5, 4)).eval()
    joined = JoinedDimConv(8, 8, (5, 4)).eval()
    state = {name.replace("dim_fuse.local", "local"): value for name, value in unit.state_dict().items()}
    joined.load_state_dict({name: value for name, value in state.items() if not name.startswith("dim_fuse.")})
    seen: list[torch.Tensor] = []
    unit.dim_fuse.local.register_forward_hook(lambda module, inputs, output: seen.append(output))
    x = torch.randn(2, 8, 5, 4)
    unit(x)
    torch.testing.assert_close(joined(x), seen[0])


@pytest.mark.parametrize("name", ["dimconv_pw", "dimconv_se", "dimconv_pw_se", "dimfuse_dimconv_dimfuse"])
def test_dimension_wise_ops_bring_dicenet_s_downsampling_unit(name: str) -> None:
    unit = get_op(name).downsample
    assert unit is not None
    module = unit.build(8, (4, 4), 3, "prelu")
    assert isinstance(module, PooledShuffleUnit)
    last = EfficientPWConv if name == "dimfuse_dimconv_dimfuse" else ConvNormAct
    assert isinstance(module.right[-1], last)
    assert get_op("dw_pw").downsample is None


def test_first_pointwise_convolutions_are_replaced() -> None:
    op = "dimfuse_dw_dimfuse_k3"
    shuffle = build(Architecture("shufflenetv2", 0.5, ((op, op),) * 3, image_size=(32, 32), num_classes=4))
    units = [unit for stage in shuffle.stages for unit in stage]
    entries = [unit.right[0] if hasattr(unit, "right") else unit.pointwise for unit in units]
    mobile = build(Architecture("mobilenetv2", 0.5, ((op,),) * 7, image_size=(32, 32), num_classes=4))
    entries += [block.expand for stage in mobile.stages for block in stage if not isinstance(block.expand, nn.Identity)]
    assert len(entries) == 6 + 6
    assert {type(entry) for entry in entries} == {EfficientPWConv}
    assert shuffle(torch.randn(2, 3, 32, 32)).shape == mobile(torch.randn(2, 3, 32, 32)).shape == (2, 4)


def test_dimconv_pointwise_has_the_macs_of_the_paper_at_unchanged_widths() -> None:
    # Table 2, ShuffleNetV2: 146 and 135 million.
    def macs(op: str) -> float:
        return architecture_cost(Architecture("shufflenetv2_edgenets", 1.0, ((op,) * 4, (op,) * 8, (op,) * 4))).macs

    assert macs("dw_pw_k3") == macs("separable_k3") == pytest.approx(146e6, rel=0.03)
    assert macs("dimconv_pw_k3") == pytest.approx(135e6, rel=0.01)
