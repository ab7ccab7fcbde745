"""ResNet whose bottlenecks hold a candidate op."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
import yaml
from torch import nn

from dicenas.nets import BottleneckUnit, architecture_cost, build, resnet_architecture
from dicenas.ops import ConvNormAct, DiCE, build_op
from dicenas.space import SpaceSpec


@pytest.mark.parametrize(("width", "row"), [(0.16, 0), (0.25, 1), (0.37, 2)])
def test_cost_is_near_the_reference_tables(reference: Path, width: float, row: int) -> None:
    text = (reference / "reference/paper_tables.yaml").read_text(encoding="utf-8")
    published = yaml.safe_load(text)["table_1"]["rows"]["ResNet"][row]["sc_flops"]
    assert architecture_cost(resnet_architecture(width)).macs / 1e6 == pytest.approx(published, rel=0.025)


def test_plan_is_resnet50_s() -> None:
    """Everything but the stem and the 3 x 3 convolutions has torchvision's shapes, and gives its map sizes."""
    with torch.device("meta"):
        ours, theirs = build(resnet_architecture(1.0)), torchvision.models.resnet50()
    for number, stage in enumerate(ours.stages, 1):
        blocks = list(getattr(theirs, f"layer{number}"))
        assert len(stage) == len(blocks)
        for own, block in zip(stage, blocks, strict=True):
            assert own.entry.conv.weight.shape == block.conv1.weight.shape
            assert own.op.depthwise.conv.weight.shape[0] == block.conv2.weight.shape[0]
            assert own.op.depthwise.conv.stride == block.conv2.stride
            assert own.op.pointwise.conv.weight.shape == block.conv3.weight.shape
            if block.downsample is None:
                assert isinstance(own.shortcut, nn.Identity)
            else:
                assert own.shortcut.conv.weight.shape == block.downsample[0].weight.shape
    assert ours.head.classifier.weight.shape == theirs.fc.weight.shape
    difference = sum(p.numel() for p in theirs.parameters()) - architecture_cost(resnet_architecture(1.0)).params
    dense = sum(block.conv2.weight.numel() for n in range(1, 5) for block in getattr(theirs, f"layer{n}"))
    depthwise = sum(block.op.depthwise.conv.weight.numel() for stage in ours.stages for block in stage)
    assert difference == dense - depthwise + 64 * 3 * (49 - 9)


def test_bottleneck_adds_its_input() -> None:
    op = build_op("separable", 2, 8, size=(5, 5), activation="relu", final_activation=False)
    nn.init.zeros_(op.pointwise.norm.weight)
    block = BottleneckUnit(ConvNormAct(8, 2, 1, activation="relu"), op, nn.Identity()).eval()
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(block(x), x.relu())


def test_first_blocks_project() -> None:
    net = build(resnet_architecture(0.1, 7, 64)).eval()
    for number, stage in enumerate(net.stages):
        strides = [module.stride for module in stage[0].modules() if isinstance(module, nn.Conv2d)]
        assert strides.count((2, 2)) == (2 if number else 0)  # the op's and the shortcut's
        assert isinstance(stage[0].shortcut, ConvNormAct)
        assert isinstance(stage[0].shortcut.act, nn.Identity)
        assert all(isinstance(block.shortcut, nn.Identity) for block in stage[1:])


@pytest.mark.parametrize("op", ["dimfuse_dw_dimfuse_k3", "dimfuse_dimconv_dimfuse_k3"])
def test_an_entry_replaces_all_pointwise_convolutions(op: str) -> None:
    net = build(resnet_architecture(0.1, 7, 64, op=op, depths=(1, 2, 1, 1)))
    dense = [
        module
        for module in net.stages.modules()
        if isinstance(module, nn.Conv2d) and module.groups == 1 and module.in_channels > 1
    ]
    # What is left are the gates of the fusions, which see pooled maps.
    shapes: list[tuple[int, ...]] = []
    for module in dense:
        module.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[2:])))
    with torch.no_grad():
        net.eval()(torch.randn(1, 3, 64, 64))
    assert len(shapes) == len(dense)
    assert set(shapes) == {(1, 1)}


def test_dimension_wise_ops_pool_first() -> None:
    """A strided block of DiCE units is pooling and a bottleneck of stride 1, as in DiCENet's down-sampling unit."""
    net = build(resnet_architecture(0.1, 7, (45, 38), op="dice_k3", depths=(1, 2, 1, 1)))
    assert isinstance(net.stages[0][0], BottleneckUnit)
    for stage in net.stages[1:]:
        pool, block = stage[0]
        assert isinstance(pool, nn.AvgPool2d)
        assert isinstance(block, BottleneckUnit)
        assert isinstance(block.op, DiCE)
    # In the paper's Table 2 DimConv behind pooling costs less than the depth-wise convolution.
    cheaper, dearer = (architecture_cost(resnet_architecture(op=op)).macs for op in ("dimconv_pw_k3", "dw_pw_k3"))
    assert cheaper < dearer


def test_the_paper_s_networks_are_points_of_the_space() -> None:
    for width in (0.16, 0.25, 0.37):
        assert resnet_architecture(width) in SpaceSpec("resnet")
        assert resnet_architecture(width, op="dice_k3") in SpaceSpec("resnet")


def test_stems() -> None:
    architecture = resnet_architecture(0.25, 10, (45, 38))
    x = torch.randn(1, 3, 45, 38)
    assert build(architecture).stem.eval()(x).shape == (1, 16, 12, 10)
    assert build(architecture.replace(stem="small")).stem.eval()(x).shape == (1, 16, 45, 38)


def test_closed_form_of_a_block() -> None:
    deep, shallow = (resnet_architecture(0.1, 7, 32, depths=(1, depth, 1, 1)) for depth in (3, 2))
    more = architecture_cost(deep).macs - architecture_cost(shallow).macs
    # One block less at 4 x 4: 12 bottleneck channels between 48.
    assert more == 4 * 4 * (48 * 12 + 12 * 9 + 12 * 48)


@pytest.mark.parametrize("width", [0.01, 9.0])
def test_impossible_width(width: float) -> None:
    with pytest.raises(ValueError, match=rf"resnet: width {width} is outside 0\.05 to 8"):
        build(resnet_architecture(width))
