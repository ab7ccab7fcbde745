"""ShuffleNetV2's units and head; DiCENet itself is held to EdgeNets in ``test_edgenets.py``."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dicenas.nets import ShuffleUnit, StridedShuffleUnit, build, dicenet, dicenet_architecture
from dicenas.nets.shufflenetv2 import CHANNELS, GroupedClassifier
from dicenas.ops import DiCE, StridedDiCE, build_op


@pytest.mark.parametrize(("in_channels", "out_channels", "passed"), [(16, 16, 8), (5, 8, 2), (7, 10, 4), (48, 116, 24)])
def test_half_of_the_channels_passes(in_channels: int, out_channels: int, passed: int) -> None:
    channels = out_channels - passed
    unit = ShuffleUnit(in_channels, out_channels, build_op("skip", channels, channels, size=(5, 5))).eval()
    x = torch.randn(2, in_channels, 5, 5)
    out = unit(x)
    assert out.shape == (2, out_channels, 5, 5)
    # The shuffle of two groups puts the first half of the concatenation on even places.
    half = out_channels // 2
    taken = min(passed, half)
    assert torch.equal(out[:, 0 : 2 * taken : 2], x[:, :taken])


def test_odd_outputs_cannot_be_shuffled() -> None:
    with pytest.raises(ValueError, match="out_channels 9 is odd"):
        ShuffleUnit(8, 9, nn.Identity())
    with pytest.raises(ValueError, match="out_channels 9 is odd"):
        StridedShuffleUnit(4, 9, nn.Identity())


def test_strided_unit() -> None:
    op = build_op("separable", 6, 6, stride=2, size=(4, 5))
    unit = StridedShuffleUnit(4, 12, op).eval()
    assert unit(torch.randn(2, 4, 7, 10)).shape == (2, 12, 4, 5)


def test_dice_brings_its_own_strided_unit() -> None:
    net = build(
        dicenet_architecture(0.2, 10, 32).replace(
            stages=(("dice_k5", "dice_k3"), ("separable_k3",) * 2, ("dice_k3",) * 2)
        )
    )
    assert isinstance(net.stages[0][0], StridedDiCE)
    assert net.stages[0][0].right[1].dim_conv.kernel_size == 5
    assert isinstance(net.stages[0][1].op, DiCE)
    assert isinstance(net.stages[1][0], StridedShuffleUnit)


def test_stems() -> None:
    architecture = dicenet_architecture(0.2, 10, (45, 38))
    x = torch.randn(1, 3, 45, 38)
    assert build(architecture).stem.eval()(x).shape == (1, 16, 12, 10)
    assert build(architecture.replace(stem="small")).stem.eval()(x).shape == (1, 16, 45, 38)


@pytest.mark.parametrize(("scale", "dropout"), [(0.1, 0.1), (1.0, 0.1), (1.25, 0.2), (2.4, 0.2)])
def test_published_dropout(scale: float, dropout: float) -> None:
    with torch.device("meta"):
        assert dicenet(scale, 10, 32).head.dropout.p == dropout
        assert dicenet(scale, 10, 32, dropout=0.0).head.dropout.p == 0.0


def test_impossible_dropout() -> None:
    with pytest.raises(ValueError, match="dropout"):
        dicenet(0.1, 10, 32, dropout=1.5)


def test_unpublished_scale() -> None:
    with pytest.raises(ValueError, match=r"no width 0\.3; published widths: 0\.1, .*2\.4"):
        dicenet(0.3)


def test_head_pools_any_size() -> None:
    head = GroupedClassifier(8, 12, 5, dropout=0.5).eval()
    x = torch.randn(3, 8, 4, 6)
    assert head(x).shape == (3, 5)
    torch.testing.assert_close(head(x), head(x.mean((2, 3), keepdim=True)))
    # Four groups: the first quarter of the features sees the first two channels alone.
    changed = x.clone()
    changed[:, 2:] += 1
    assert torch.equal(*(head.expand(y.mean((2, 3), keepdim=True))[:, :3] for y in (x, changed)))


def test_dicenet_starts_as_published() -> None:
    net = dicenet(1.0, image_size=32)
    for name, parameter in net.named_parameters():
        if "norm.weight" in name:
            assert (parameter == 1).all()
        elif "act." in name:
            assert (parameter == 0.25).all()
        elif name.endswith("bias"):
            assert (parameter == 0).all()
        else:
            fan_out = parameter.shape[0] * parameter[0, 0].numel()
            if parameter.numel() > 2000:
                assert parameter.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1), name


def test_widths_give_whole_groups_and_halves() -> None:
    for channels in CHANNELS.values():
        stem, first, *stages, head = channels
        assert stem == first
        assert all(width % 2 == 0 for width in stages)
        assert stages[-1] % 4 == head % 4 == 0
