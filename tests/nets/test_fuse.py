from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
import torch
from torch import Tensor, nn

from dicenas import fuse_for_inference
from dicenas.nets import FusedDiCE, ShuffleNetV2, build, dicenet, get_backbone, list_backbones
from dicenas.nets.shufflenetv2 import GroupedClassifier
from dicenas.ops import DiCE, SqueezeExcitation, StridedDiCE, kernels
from dicenas.ops.mixed import MixedSeparableConv
from dicenas.space import SpaceSpec


def randomise(net: nn.Module) -> nn.Module:
    """Give every normalisation and activation statistics that folding has to respect."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
        elif isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.3, 0.5)
    return net


def difference(actual: Tensor, expected: Tensor) -> float:
    return float(((actual - expected).abs().max() / expected.abs().max()).detach())


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    "unit",
    [
        lambda: DiCE(12, 12, (7, 9)),
        lambda: DiCE(12, 12, (14, 14), kernel_size=5),
        lambda: DiCE(12, 12, (3, 2), activation="relu"),
        lambda: DiCE(12, 18, (7, 9), final_activation=False),
        lambda: DiCE(12, 12, (7, 9), dilation=(2, 1, 1)),
        lambda: DiCE(12, 12, (7, 9), kernel_size=7),
    ],
)
def test_unit(unit: object, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.available("cpu")
    if not fast:
        monkeypatch.setattr(kernels, "qualifies", lambda *arguments: False)
    net = randomise(unit()).eval()  # type: ignore[operator]
    fused = fuse_for_inference(net)
    assert isinstance(fused, FusedDiCE)
    for n, size in ((2, net.dim_conv.size), (1, (8, 5)), (0, net.dim_conv.size)):
        x = torch.randn(n, 12, *size)
        y = fused(x)
        assert y.shape == net(x).shape
        assert n == 0 or difference(y, net(x)) < 1e-5


def test_gradient_of_the_input() -> None:
    net = randomise(nn.Sequential(DiCE(8, 8, (7, 9)), StridedDiCE(8, (4, 5)))).eval()
    fused = fuse_for_inference(net)
    for size in ((7, 9), (10, 8)):
        x = torch.randn(2, 8, *size, requires_grad=True)
        grads = [torch.autograd.grad(module(x).square().sum(), x)[0] for module in (net, fused)]
        by_torch_func = torch.func.grad(lambda x: fused(x).square().sum())(x.detach())
        through_vmap = torch.func.grad(lambda x: torch.vmap(fused)(x[:, None]).square().sum())(x.detach())
        for grad in (grads[1], by_torch_func, through_vmap):
            assert difference(grad, grads[0]) < 1e-4


def test_forward_mode_differentiation() -> None:
    net = randomise(nn.Sequential(DiCE(8, 8, (7, 9)), StridedDiCE(8, (4, 5)))).eval()
    x, tangent = torch.randn(2, 2, 8, 7, 9)
    values = [torch.func.jvp(module, (x,), (tangent,))[1] for module in (net, fuse_for_inference(net))]
    assert difference(values[1], values[0]) < 1e-4


@pytest.mark.parametrize("activation", ["hardswish", "silu"])
def test_unit_that_cannot_be_fused_is_kept(activation: str) -> None:
    for net in (DiCE(8, 8, (5, 5), activation=activation), DiCE(8, 8, (5, 5), shuffle=False)):
        randomise(net).eval()
        fused = fuse_for_inference(net)
        assert isinstance(fused, DiCE)
        x = torch.randn(2, 8, 5, 5)
        assert difference(fused(x), net(x)) < 1e-5


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 3])
def test_network(batch: int, threads: int) -> None:
    net = randomise(dicenet(0.5, num_classes=10, image_size=64))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fused = fuse_for_inference(net)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    net.eval()
    torch.set_num_threads(threads)
    for size in (64, 96):
        x = torch.randn(batch, 3, size, size)
        with torch.no_grad():
            assert difference(fused(x), net(x)) < 1e-5
    torch.set_num_threads(1)


@pytest.mark.parametrize("negative", [False, True])
def test_pooling_before_activating(negative: bool) -> None:
    net = build(SpaceSpec("shufflenetv2", ("dice_k3",), (0.5,), ((1,),) * 3, resolutions=(64,)).random(Random(0)))
    with torch.no_grad():
        net.stem[0].act.weight.uniform_(0, 1)
        if negative:
            net.stem[0].act.weight[3] = -0.2
    randomised = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in randomised:
        norm.running_mean.normal_(0, 0.3)
    net.eval()
    fused = fuse_for_inference(net)
    assert isinstance(fused.stem[1], nn.MaxPool2d) == negative
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert difference(fused.stem(x), net.stem(x)) < 1e-6
        assert difference(fused(x), net(x)) < 1e-5


def without_bias(head: nn.Module) -> None:
    head.classifier = nn.Conv2d(12, 5, 1, bias=False)


def identity(head: nn.Module) -> None:
    head.classifier = nn.Identity()


def stacked(head: nn.Module) -> None:
    head.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(12, 5, 1))


def grouped(head: nn.Module) -> None:
    head.classifier = nn.Conv2d(12, 4, 1, groups=2)


def activated(head: nn.Module) -> None:
    head.dropout = nn.ReLU()


def biased(head: nn.Module) -> None:
    head.expand = nn.Conv2d(8, 12, 1, groups=4)
    nn.init.normal_(head.expand.bias)


@pytest.mark.parametrize("change", [None, without_bias, identity, stacked, grouped, activated, biased])
def test_heads(change: Callable[[nn.Module], None] | None) -> None:
    head = GroupedClassifier(8, 12, 5, dropout=0.5)
    nn.init.normal_(head.classifier.bias)
    if change is not None:
        change(head)
    head.eval()
    fused = fuse_for_inference(head)
    assert (type(fused) is GroupedClassifier) == (change is not None)
    x = torch.randn(3, 8, 4, 5)
    assert difference(fused(x), head(x)) < 1e-5


@pytest.mark.parametrize("backbone", [name for name in list_backbones() if name != "shufflenetv2"])
def test_every_backbone(backbone: str) -> None:
    family = get_backbone(backbone)
    ops = ("dice_k3", "separable_se_k3")
    width = min(family.channels) if isinstance(family, ShuffleNetV2) else 0.25
    space = SpaceSpec(backbone, ops, (width,), ((2,),) * family.num_stages, resolutions=(40,), num_classes=7)
    net = randomise(build(space.random(Random(1)))).eval()
    assert {type(module) for module in net.modules()} > {DiCE, SqueezeExcitation}
    fused = fuse_for_inference(net)
    kinds = {type(module) for module in fused.modules()}
    if DiCE not in kinds:  # of other activations, that is kept as it is
        assert FusedDiCE in kinds
        assert nn.BatchNorm2d not in kinds
    for size in (40, 33):
        x = torch.randn(2, 3, size, size)
        with torch.no_grad():
            assert difference(fused(x), net(x)) < 1e-5


@pytest.mark.parametrize(("in_channels", "out_channels", "stride"), [(17, 8, 1), (24, 24, 2)])
def test_mixed_kernels_take_their_normalisation(in_channels: int, out_channels: int, stride: int) -> None:
    net = randomise(MixedSeparableConv(in_channels, out_channels, 7, stride, final_activation=False)).eval()
    fused = fuse_for_inference(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    x = torch.randn(2, in_channels, 9, 12)
    assert difference(fused(x), net(x)) < 1e-5
    assert torch.equal(fuse_for_inference(fused)(x), fused(x))


def test_networks_of_others() -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)
            self.body = nn.ModuleDict({"unit": StridedDiCE(8, (4, 4))})

        def forward(self, x: Tensor) -> Tensor:
            return self.body["unit"](self.conv(x)).sum((2, 3))

    net = randomise(Mine()).eval()
    x = torch.randn(2, 3, 8, 8)
    assert difference(fuse_for_inference(net)(x), net(x)) < 1e-5


def test_compiled_and_exported() -> None:
    net = randomise(DiCE(12, 12, (7, 9))).eval()
    x = torch.randn(2, 12, 7, 9)
    fused = fuse_for_inference(net)
    assert difference(torch.compile(fused, fullgraph=True)(x), net(x)) < 1e-5
    program = torch.export.export(fused, (x,))
    assert not any("dicenas" in str(node.target) for node in program.graph.nodes)
    assert difference(program.module()(x), net(x)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    net = randomise(DiCE(12, 12, (7, 9))).eval()
    x = torch.randn(2, 12, 7, 9)
    expected = net(x)
    actual = fuse_for_inference(net).to(dtype)(x.to(dtype))
    assert actual.dtype == dtype
    assert difference(actual.float(), expected) < (1e-5 if dtype == torch.float64 else 5e-2)
