"""The small layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dicenas.ops import (
    Bottleneck,
    ChannelShuffle,
    ConvNormAct,
    DiCE,
    InvertedBottleneck,
    JoinedDimConv,
    SeparableConv,
    ShapedConvNormAct,
    ShuffleBottleneck,
    SqueezeExcitation,
    make_activation,
)
from dicenas.ops.layers import ACTIVATIONS


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_shuffle_is_torch_s(groups: int) -> None:
    x = torch.randn(2, 12, 3, 5)
    assert torch.equal(ChannelShuffle(groups)(x), nn.ChannelShuffle(groups)(x))


def test_shuffle_in_groups_that_do_not_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="10 channels cannot be shuffled in 3 groups"):
        ChannelShuffle(3)(torch.randn(2, 10, 3, 5))


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_keeps_borders(kernel_size: int, stride: int) -> None:
    layer = ConvNormAct(4, 6, kernel_size, stride, groups=2)
    for size in ((5, 8), (1, 1)):
        expected = tuple(-(-side // stride) for side in size)
        assert layer(torch.randn(2, 4, *size)).shape == (2, 6, *expected)


@pytest.mark.parametrize("kernel_size", [-1, 0, 2, 4])
def test_even_kernels_are_refused(kernel_size: int) -> None:
    """Their padding cannot keep the size, and a residual or a second branch would not fit any more."""
    for build in (
        lambda: ConvNormAct(8, 8, kernel_size),
        lambda: ShapedConvNormAct(8, 8, (3, kernel_size)),
        lambda: ShapedConvNormAct(8, 8, (kernel_size, 3)),
        lambda: SeparableConv(8, 8, kernel_size),
        lambda: Bottleneck(8, 8, 4, kernel_size),
        lambda: ShuffleBottleneck(8, 8, 4, 2, kernel_size),
        lambda: InvertedBottleneck(8, 8, 16, kernel_size),
        lambda: DiCE(8, 8, (7, 7), kernel_size),
        lambda: JoinedDimConv(8, 8, (7, 7), kernel_size),
    ):
        with pytest.raises(ValueError, match=rf"kernel_size.*{kernel_size}"):
            build()


def test_convolutions_start_as_published() -> None:
    # Fan-out is counted without regard to groups.
    weight = ConvNormAct(128, 128, 3, groups=128).conv.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.1)


def test_squeeze_excitation_scales_channels() -> None:
    module = SqueezeExcitation(8)
    assert module.reduce.out_channels == 2
    x = torch.randn(2, 8, 3, 5)
    scale = module(x) / x
    torch.testing.assert_close(scale, scale[:, :, :1, :1].expand_as(scale))
    assert ((scale > 0) & (scale < 1)).all()
    assert SqueezeExcitation(2).reduce.out_channels == 1


def test_prelu_has_a_slope_a_channel() -> None:
    assert make_activation("prelu", 7).weight.shape == (7,)


def test_every_activation_is_listed() -> None:
    assert isinstance(make_activation(None, 3), nn.Identity)
    x = torch.linspace(-4, 8, 13).reshape(1, 1, 1, 13)
    for name in ACTIVATIONS:
        assert not torch.equal(make_activation(name, 1)(x), x), name
    with pytest.raises(ValueError, match=r"unknown activation .tanhh.; expected one of .*silu"):
        make_activation("tanhh", 3)


def test_hard_squeeze_excitation_is_mobilenetv3_s() -> None:
    # channels, channels of the bottleneck in torchvision
    for channels, squeezed in ((16, 8), (72, 24), (96, 24), (120, 32), (240, 64), (672, 168), (8, 8)):
        assert SqueezeExcitation(channels, divisor=8, hard=True).reduce.out_channels == squeezed
    module = SqueezeExcitation(8, hard=True)
    nn.init.zeros_(module.expand.weight)
    for bias, gate in ((-3.0, 0.0), (0.0, 0.5), (1.5, 0.75), (3.0, 1.0)):
        nn.init.constant_(module.expand.bias, bias)
        x = torch.randn(2, 8, 3, 5)
        torch.testing.assert_close(module(x), gate * x)
