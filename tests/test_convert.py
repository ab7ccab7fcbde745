"""Tests of dicenas.convert: the op in networks of other libraries."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import dicenas
from dicenas.convert import ConversionError, find_separable_convolutions
from dicenas.ops import DiCE, SeparableConv, list_ops

# The builder of a network, its image size, its depth-wise convolutions, and how many of them are separable.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int, int]] = {
    "torchvision mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(width_mult=0.35), 96, 17, 17),
    "torchvision mobilenet_v3_small": (lambda: torchvision.models.mobilenet_v3_small(), 96, 11, 11),
    "torchvision shufflenet_v2_x0_5": (lambda: torchvision.models.shufflenet_v2_x0_5(), 96, 19, 19),
    "torchvision mnasnet0_5": (lambda: torchvision.models.mnasnet0_5(), 96, 17, 17),
    "torchvision efficientnet_b0": (lambda: torchvision.models.efficientnet_b0(), 64, 16, 16),
    "torchvision convnext_tiny": (lambda: torchvision.models.convnext_tiny(), 64, 18, 18),
    "torchvision resnet18": (lambda: torchvision.models.resnet18(), 64, 0, 0),
    "timm efficientnet_b0": (lambda: timm.create_model("efficientnet_b0"), 64, 16, 16),
    "timm mobilenetv3_small_050": (lambda: timm.create_model("mobilenetv3_small_050"), 96, 11, 11),
    "timm mnasnet_small": (lambda: timm.create_model("mnasnet_small"), 96, 15, 15),
    "timm convnext_atto": (lambda: timm.create_model("convnext_atto"), 64, 12, 12),
    "timm tf_mobilenetv3_small_100": (lambda: timm.create_model("tf_mobilenetv3_small_minimal_100"), 96, 11, 11),
    "timm mixnet_s": (lambda: timm.create_model("mixnet_s"), 96, 43, 1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_other_libraries(name: str) -> None:
    build, image_size, depthwise, separable = NETWORKS[name]
    torch.manual_seed(0)
    model = build().train()
    report = dicenas.convert(model, image_size)
    assert report.model is model
    assert len(report.replaced) == separable
    assert len(report.replaced) + len(report.left) == depthwise
    assert all(isinstance(model.get_submodule(site.name), DiCE | nn.Sequential) for site in report.replaced)
    assert report.after.params == sum(p.numel() for p in model.parameters())
    assert all(module.training for module in model.modules())
    logits = model(torch.randn(2, 3, image_size, image_size))
    assert logits.shape == (2, 1000)
    logits.sum().backward()
    new = [p for site in report.replaced for p in model.get_submodule(site.name).parameters()]
    assert all(p.grad is not None for p in new)


def separable(stride: int = 1, bias: bool = False, between: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(8, 8, 3, stride, 1, groups=8, bias=bias),
        *([between] if between is not None else []),
        nn.Conv2d(8, 12, 1, bias=bias),
        nn.BatchNorm2d(12),
        nn.ReLU6(),
    )


class Net(nn.Module):
    """A body between a stem and a head."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 3, padding=1), body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("image_size", [16, 13, (9, 16)])
def test_converting_to_the_same_op_changes_no_multiply_adds(stride: int, image_size: int | tuple[int, int]) -> None:
    net = Net(separable(stride))
    report = dicenas.convert(net, image_size, op="separable")
    assert report.before.macs == report.after.macs
    (site,) = report.replaced
    assert (site.in_channels, site.out_channels, site.stride, site.kernel_size) == (8, 12, stride, 3)
    assert (site.name, site.pointwise, site.absorbed) == ("body.0", "body.1", ("body.2", "body.3"))
    assert (site.activation, site.final_activation) == ("relu6", True)
    op = net.body[0]
    assert isinstance(op, SeparableConv)
    assert isinstance(op.pointwise.act, nn.ReLU6)
    assert all(type(module) is nn.Identity for module in net.body[1:])


def test_candidates_dtypes_and_modes_are_kept() -> None:
    net = Net(separable()).double().eval()
    dicenas.convert(net, 16, op="dice_k5")
    unit = net.body[0]
    assert isinstance(unit, DiCE)
    assert unit.dim_conv.kernel_size == 5
    assert next(unit.parameters()).dtype == torch.float64
    assert not unit.training


def test_other_channels_than_three() -> None:
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), separable())
    assert len(dicenas.convert(net, 16, in_channels=1).replaced) == 1


class Gate(nn.Module):
    """Squeeze-and-excitation as libraries write it: a functional product of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3), keepdim=True)).sigmoid()


class SqueezeExcite(Gate):
    pass


def test_squeeze_and_excitation_is_taken_over_and_other_modules_are_not() -> None:
    assert dicenas.convert(Net(separable(between=SqueezeExcite())), 16).replaced[0].absorbed[0] == "body.1"
    report = dicenas.convert(Net(separable(between=Gate())), 16)
    assert not report.replaced
    assert report.left == {"body.0": "Gate body.1 stands between it and a point-wise convolution"}
    report = dicenas.convert(Net(separable(between=nn.MaxPool2d(3, 1, 1))), 16)
    assert report.left == {"body.0": "MaxPool2d body.1 stands between it and a point-wise convolution"}


class Residual(nn.Module):
    """Reads the depth-wise convolution's output twice."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pointwise, self.other = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x)
        return self.pointwise(y) + self.other(y)


def test_what_is_read_twice_shared_or_dilated_stays() -> None:
    assert "several modules" in dicenas.convert(Net(Residual()), 16).left["body.depthwise"]
    shared = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    twice = nn.Sequential(shared, nn.Conv2d(8, 8, 1), shared, nn.Conv2d(8, 8, 1))
    assert dicenas.convert(Net(twice), 16).left == {"body.0": "it is used in several places"}
    dilated = nn.Sequential(nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8), nn.Conv2d(8, 8, 1))
    assert dicenas.convert(Net(dilated), 16).left == {"body.0": "its dilation is (2, 2)"}
    valid = nn.Sequential(nn.Conv2d(8, 8, 5, groups=8), nn.Conv2d(8, 8, 1))
    assert "neither stride 1 nor 2" in dicenas.convert(Net(valid), 16).left["body.0"]


class ReadByCode(nn.Module):
    """What the depth-wise convolution gives is read a second time by code that is no module, or returned."""

    def __init__(self, returned: bool) -> None:
        super().__init__()
        self.returned = returned
        self.stem = nn.Conv2d(3, 8, 1)
        self.dw = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.bn = nn.BatchNorm2d(8)
        self.pw = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Any:
        y = self.bn(self.dw(self.stem(x)))
        return (self.pw(y), y) if self.returned else self.pw(y) + y


@pytest.mark.parametrize("returned", [False, True])
def test_what_code_outside_of_modules_reads_stays(returned: bool) -> None:
    report = dicenas.convert(ReadByCode(returned), 16)
    assert report.replaced == ()
    assert report.left == {"dw": "the output of bn goes to several modules, or to code outside of modules"}


def test_an_op_that_does_not_fit_leaves_the_convolution() -> None:
    report = dicenas.convert(Net(separable()), 16, op="skip")
    assert not report.replaced
    assert "skip" in report.left["body.0"]
    assert report.before == report.after


def test_where() -> None:
    def net() -> Net:
        return Net(nn.Sequential(separable(), nn.Conv2d(12, 8, 1), separable(2)))

    names = [site.name for site in find_separable_convolutions(net(), 16)]
    assert names == ["body.0.0", "body.2.0"]
    for where in ("body.2.*", ["body.2.0"], lambda site: site.stride == 2):
        report = dicenas.convert(net(), 16, where=where)
        assert [site.name for site in report.replaced] == ["body.2.0"]
        assert report.left == {"body.0.0": "not chosen"}
    with pytest.raises(ValueError, match=r"'head\.\*' matches no separable convolution \(there are: body"):
        dicenas.convert(net(), 16, where="head.*")


class Picky(nn.Module):
    """Looks into the module that is to be replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.block = separable()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x) * self.block[0].weight.mean()


def test_a_network_that_breaks_is_put_back() -> None:
    net = Net(Picky())
    modules = list(net.modules())
    with pytest.raises(ConversionError, match="was put back"):
        dicenas.convert(net, 16)
    assert list(net.modules()) == modules


def test_an_op_that_cannot_be_built_leaves_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    build_op, built = dicenas.ops.build_op, []

    def build_one(*args: Any, **kwargs: Any) -> nn.Module:
        if built:
            raise TypeError("an op of somebody else")
        built.append(build_op(*args, **kwargs))
        return built[0]

    monkeypatch.setattr(sys.modules["dicenas.convert"], "build_op", build_one)
    net = Net(nn.Sequential(separable(), nn.Conv2d(12, 8, 1), separable()))
    modules = list(net.modules())
    with pytest.raises(TypeError, match="somebody else"):
        dicenas.convert(net, 16)
    assert list(net.modules()) == modules


@pytest.mark.parametrize("size", [0, (16,), (16, 16, 16), "16", 16.0])
def test_bad_image_sizes(size: object) -> None:
    with pytest.raises(ValueError, match="image_size"):
        dicenas.convert(Net(separable()), size)  # type: ignore[arg-type]


def test_images_that_the_network_does_not_take() -> None:
    with pytest.raises(ConversionError, match=r"does not run on an image \(1, 5, 16, 16\): .*channels"):
        dicenas.convert(Net(separable()), 16, in_channels=5)


@pytest.mark.parametrize("stride", [1, 2])
def test_every_registered_op_takes_the_place_or_says_why_not(stride: int) -> None:
    for op in list_ops():
        net = Net(separable(stride))
        report = dicenas.convert(net, 15, op=op)
        assert net(torch.randn(2, 3, 15, 15)).shape == (2, 12, 15 if stride == 1 else 8, 15 if stride == 1 else 8)
        if report.replaced:
            assert report.after != report.before or op == "separable"
        else:
            assert f"op '{op}' cannot map 8 to 12 channels at stride {stride}" in report.left["body.0"]


@pytest.mark.parametrize("op", ["separable_se", "inverted_residual", "conv_k3"])
def test_other_ops_in_a_published_network(op: str) -> None:
    model = torchvision.models.mobilenet_v2(width_mult=0.35)
    report = dicenas.convert(model, 64, op=op)
    assert len(report.replaced) == 17
    assert {site.stride for site in report.replaced} == {1, 2}
    model(torch.randn(2, 3, 64, 64)).sum().backward()


def test_the_report_names_a_few_of_those_with_one_reason() -> None:
    layers = [module for _ in range(6) for module in (separable(), nn.Conv2d(12, 8, 1))]
    text = str(dicenas.convert(Net(nn.Sequential(*layers)), 16, where="body.0.0"))
    assert "  left body.2.0, body.4.0, body.6.0, body.8.0 and 1 more: not chosen" in text.splitlines()


def test_unknown_op() -> None:
    with pytest.raises(ValueError, match="did you mean 'dice'"):
        dicenas.convert(Net(separable()), 16, op="dicee")


def test_the_report_reads_well() -> None:
    text = str(dicenas.convert(Net(nn.Sequential(separable(), nn.Conv2d(12, 12, 3, padding=1, groups=12))), 16))
    assert text.splitlines()[0] == "replaced 1 separable convolution by dice, left 1"
    assert "body.0.0 … body.0.1: 8 to 12 channels, 16×16, stride 1" in text
    assert "FLOPs (MACs)" in text
