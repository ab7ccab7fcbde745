"""The blocks of efficient networks: what each is made of, and what the literature says that it saves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dicenas.ops import ConvNormAct, ShapedConvNormAct, SqueezeExcitation, build_op
from dicenas.ops.convolutions import common_groups


def convolution_weights(module: nn.Module) -> int:
    """Weights of the convolutions alone, without biases, normalisations and activations."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(
    ("name", "channels", "kernel_size", "weights"),
    [
        ("conv", (64, 128), 3, 73_728),
        ("separable", (64, 128), 3, 8_768),
        ("bottleneck", (256, 256), 3, 69_632),
        ("conv", (256, 256), 3, 589_824),
        # Two 3x3 layers cost 18/25 of a 5x5 one, three 27/49 of a 7x7 one; k x 1 and 1 x k cost 2/k of k x k.
        ("conv", (64, 64), 5, 102_400),
        ("stacked", (64, 64), 5, 73_728),
        ("conv", (64, 64), 7, 200_704),
        ("stacked", (64, 64), 7, 110_592),
        ("factorized", (64, 64), 7, 57_344),
        ("grouped", (64, 64), 3, 4_608),
        ("depthwise", (64, 128), 3, 1_152),
        ("dilated", (64, 128), 3, 73_728),
        # 240 and 3 groups are those of ShuffleNet's first stage at its narrower widths; here up to 4 groups.
        ("shuffle_bottleneck", (240, 240), 3, 240 * 60 // 4 + 60 * 9 + 60 * 240 // 4),
        ("inverted_residual", (24, 24), 3, 24 * 144 + 144 * 9 + 144 * 24),
    ],
)
def test_closed_form_of_textbook_examples(name: str, channels: tuple[int, int], kernel_size: int, weights: int) -> None:
    assert convolution_weights(build_op(name, *channels, size=(8, 8), kernel_size=kernel_size)) == weights


def test_closed_form_of_the_separable_saving() -> None:
    separable, standard = (build_op(name, 64, 128, size=(8, 8)) for name in ("separable", "conv"))
    assert convolution_weights(standard) / convolution_weights(separable) == pytest.approx(8.4, abs=0.01)


def test_groups_divide_both_numbers_of_channels() -> None:
    assert [common_groups(*c, 8) for c in ((116, 116), (58, 58), (464, 464), (7, 9), (24, 36))] == [4, 2, 8, 1, 6]


def test_shaped_convolution_keeps_the_place_of_pixels() -> None:
    # An impulse under a kernel of ones lights what the kernel reaches, around its own place.
    for kernel_size, dilation, rows, columns in (((5, 1), 1, 5, 1), ((1, 3), 1, 1, 3), ((3, 3), 2, 3, 3)):
        layer = ShapedConvNormAct(1, 1, kernel_size, dilation=dilation, activation=None).eval()
        nn.init.ones_(layer.conv.weight)
        x = torch.zeros(1, 1, 9, 9)
        x[0, 0, 4, 4] = 1
        lit = layer(x)[0, 0] > 0
        assert (lit.any(1).sum(), lit.any(0).sum()) == (rows, columns)
        assert torch.equal(lit, lit.flip(0, 1))


@pytest.mark.parametrize("name", ["bottleneck", "shuffle_bottleneck", "inverted_residual", "inverted_residual_se"])
def test_the_input_is_added_where_the_shape_allows(name: str) -> None:
    def projected_to_nothing(out_channels: int, stride: int) -> nn.Module:
        module = build_op(name, 8, out_channels, stride=stride, size=(4, 4), activation="relu", final_activation=False)
        convs = [layer for layer in module.modules() if isinstance(layer, ConvNormAct)]
        nn.init.zeros_(convs[-1].norm.weight)
        return module

    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(projected_to_nothing(8, 1)(x), x)
    assert not projected_to_nothing(16, 1)(x).any()
    assert not projected_to_nothing(8, 2)(torch.randn(2, 8, 8, 8)).any()


def test_shuffle_bottleneck_mixes_all_channels() -> None:
    module = build_op("shuffle_bottleneck", 64, 64, size=(3, 3)).double().eval()
    x = torch.randn(1, 64, 3, 3, dtype=torch.float64, requires_grad=True)
    for channel in (0, 63):
        (grad,) = torch.autograd.grad(module(x)[0, channel].sum(), x)
        assert (grad.abs().sum((0, 2, 3)) > 0).all()


def test_se_alone_scales_channels() -> None:
    module = build_op("se", 8, 8, size=(4, 4), final_activation=False)
    assert isinstance(module, SqueezeExcitation)
    x = torch.randn(2, 8, 4, 4)
    scale = module(x) / x
    torch.testing.assert_close(scale, scale[:, :, :1, :1].expand_as(x))
    with pytest.raises(ValueError, match="'se' cannot map 8 to 9 channels"):
        build_op("se", 8, 9, size=(4, 4))


def test_depthwise_gives_multiples_of_its_channels() -> None:
    x = torch.randn(2, 6, 4, 4)
    assert build_op("depthwise", 6, 18, size=(4, 4))(x).shape == (2, 18, 4, 4)
    with pytest.raises(ValueError, match="'depthwise' cannot map 6 to 9 channels"):
        build_op("depthwise", 6, 9, size=(4, 4))
