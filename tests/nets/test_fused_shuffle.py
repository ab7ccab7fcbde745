"""Fused units of ShuffleNetV2, whose channels stay where they were written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dicenas import fuse_for_inference
from dicenas.nets import ShuffleUnit, StridedShuffleUnit
from dicenas.nets.fused_shuffle import FusedShuffleStages, FusedShuffleUnits
from dicenas.ops import DiCE, PooledShuffleUnit, SeparableConv, StridedDiCE, kernels
from tests.nets.test_fuse import difference, randomise


def shuffle_units(*, op: str = "dice_k3", activation: str = "prelu", kernel_size: int = 3) -> nn.Sequential:
    """Two stages, of which the first begins with DiCENet's down-sampling unit and the second with ShuffleNetV2's."""
    build_op = {
        "dice_k3": lambda c, size: DiCE(c, c, size, kernel_size, activation=activation),
        "separable": lambda c, size: SeparableConv(c, c, activation=activation),
    }[op]
    return nn.Sequential(
        nn.Sequential(
            StridedDiCE(7, (8, 7), activation=activation),
            ShuffleUnit(14, 18, build_op(11, (8, 7)), activation),
            ShuffleUnit(18, 18, build_op(9, (8, 7)), activation),
        ),
        nn.Sequential(
            StridedShuffleUnit(18, 22, SeparableConv(11, 11, stride=2, activation=activation), activation),
            ShuffleUnit(22, 22, build_op(11, (4, 4)), activation),
        ),
        nn.Sequential(
            PooledShuffleUnit(22, build_op(22, (2, 2)), activation=activation),
        ),
    )


@pytest.mark.parametrize(
    ("options", "joined"),
    [
        ({}, True),
        ({"op": "separable"}, True),
        ({"activation": "relu", "kernel_size": 5}, True),
        ({"activation": "hardswish"}, False),  # the point-wise convolutions stay what they are
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_channels_stay_where_they_are(options: dict[str, object], joined: bool, threads: int) -> None:
    net = randomise(shuffle_units(**options)).eval()  # type: ignore[arg-type]
    fused = fuse_for_inference(net)
    assert isinstance(fused, FusedShuffleStages) == joined
    assert all(isinstance(stage, FusedShuffleUnits) == joined for stage in fused)
    torch.set_num_threads(threads)
    for n, size in ((2, (16, 14)), (1, (15, 21)), (0, (16, 14))):
        x = torch.randn(n, 7, *size)
        with torch.no_grad():
            y = expected = x
            for stage, own in zip(net, fused, strict=True):  # each by itself takes and gives a map
                expected, y = stage(expected), own(y)
                assert y.shape == expected.shape
                assert n == 0 or difference(y, expected) < 1e-5
            assert n == 0 or difference(fused(x), expected) < 1e-5
    torch.set_num_threads(1)
    again = fuse_for_inference(fused)
    assert torch.equal(again(x), fused(x))


def test_units_one_by_one() -> None:
    units = [ShuffleUnit(12, 12, DiCE(6, 6, (5, 5))), ShuffleUnit(12, 12, SeparableConv(6, 6)), StridedDiCE(12, (3, 3))]
    x = torch.randn(2, 12, 5, 5)
    for net in (*units, nn.Sequential(*units), nn.Sequential(units[0], nn.Identity(), units[1])):
        randomise(net).eval()
        fused = fuse_for_inference(net)
        assert any(isinstance(module, FusedShuffleUnits) for module in fused.modules())
        with torch.no_grad():
            assert difference(fused(x), net(x)) < 1e-5
            with kernels.disabled():
                assert difference(fused(x), net(x)) < 1e-5


def test_steps_of_fused_stages() -> None:
    net = randomise(shuffle_units()).eval()
    x = torch.randn(2, 7, 16, 14)
    with torch.no_grad():
        fused = fuse_for_inference(net)
        for y in (x, x.double()):  # there are no kernels in double precision
            steps = fused.to(y.dtype).steps(y)
            assert len(steps) == 6
            for step in steps:
                y = step(y)
            assert difference(y, net.to(y.dtype)(x.to(y.dtype))) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_shuffle_units_in_half_precision(dtype: torch.dtype) -> None:
    net = randomise(shuffle_units(op="separable")).eval()
    x = torch.randn(2, 7, 16, 14)
    fused = fuse_for_inference(net).to(dtype)
    with torch.no_grad():
        assert difference(fused(x.to(dtype)).float(), net(x)) < 0.05
        with torch.autocast("cpu", torch.bfloat16):
            assert difference(fuse_for_inference(net)(x).float(), net(x).float()) < 0.05


def test_gradient_through_shuffle_units() -> None:
    net = randomise(shuffle_units()).eval()
    x = torch.randn(2, 7, 16, 14, requires_grad=True)
    grads = [torch.autograd.grad(module(x).square().sum(), x)[0] for module in (net, fuse_for_inference(net))]
    assert difference(grads[1], grads[0]) < 1e-4


def test_compiles_as_one_graph_with_shuffle_units() -> None:
    net = randomise(shuffle_units()).eval()
    compiled = torch.compile(fuse_for_inference(net), fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 7, 16, 14)
    with torch.no_grad():
        assert difference(compiled(x), net(x)) < 1e-5


def pooled_unit() -> PooledShuffleUnit:
    return PooledShuffleUnit(12, SeparableConv(12, 12))


def max_pooling(unit: Any) -> None:
    unit.right[0] = nn.MaxPool2d(3, 2, 1)


def other_average(unit: Any) -> None:
    unit.right[0] = nn.AvgPool2d(3, 2, 1, count_include_pad=False)


def dilated(unit: Any) -> None:
    unit.left[0].conv = nn.Conv2d(12, 12, 3, 2, 2, dilation=2, groups=12, bias=False)
    unit.right[0] = nn.AvgPool2d(3, 2, 1)


def wide(unit: Any) -> None:
    unit.left[0].conv = nn.Conv2d(12, 12, 5, 2, 2, groups=12, bias=False)


def dense(unit: Any) -> None:
    unit.left[0].conv = nn.Conv2d(12, 12, 3, 2, 1, bias=False)


def of_others(unit: Any) -> None:
    unit.left[0] = nn.Sequential(nn.Conv2d(12, 12, 3, 2, 1, groups=12, bias=False), nn.ReLU())


def longer(unit: Any) -> None:
    unit.left.append(nn.ReLU())


def no_sequence(unit: Any) -> None:
    unit.left = nn.Conv2d(12, 12, 3, 2, 1)


def unshuffled(unit: Any) -> None:
    unit.shuffle = nn.Identity()


@pytest.mark.parametrize(
    "change", [max_pooling, other_average, dilated, wide, dense, of_others, longer, no_sequence, unshuffled]
)
def test_units_with_other_parts(change: Callable[[Any], None]) -> None:
    unit = pooled_unit()
    change(unit)
    net = randomise(nn.Sequential(unit, ShuffleUnit(24, 24, nn.Identity()))).eval()
    x = torch.randn(2, 12, 9, 8)
    with torch.no_grad():
        expected = net(x)
        assert difference(fuse_for_inference(net)(x), expected) < 1e-5
    assert not isinstance(fuse_for_inference(net), FusedShuffleUnits)


def test_branches_of_others() -> None:
    unit = StridedShuffleUnit(12, 24, nn.AvgPool2d(3, 2, 1))
    unit.left = nn.Conv2d(12, 12, 3, 2, 1)
    net = randomise(nn.Sequential(unit, ShuffleUnit(24, 24, nn.Identity()))).eval()
    x = torch.randn(2, 12, 9, 8)
    assert difference(fuse_for_inference(net)(x), net(x)) < 1e-5


def test_channels_that_do_not_fit() -> None:
    net = randomise(nn.Sequential(ShuffleUnit(12, 12, nn.Conv2d(6, 10, 1)), nn.Identity())).eval()
    with pytest.raises(ValueError, match=r"ShuffleUnit: its op gave .*expected 6 channels"), torch.no_grad():
        fuse_for_inference(net)(torch.randn(2, 12, 5, 5))
    fused = fuse_for_inference(ShuffleUnit(12, 12, nn.Identity()).eval())
    assert isinstance(fused, FusedShuffleUnits)
    with pytest.raises(RuntimeError, match="split"), torch.no_grad():
        fused(torch.randn(2, 20, 5, 5))
    unequal = nn.Sequential(ShuffleUnit(12, 12, nn.Identity()), ShuffleUnit(14, 14, nn.Identity())).eval()
    assert not isinstance(fuse_for_inference(unequal), FusedShuffleUnits)


def test_weights_of_another_network() -> None:
    nets = [randomise(shuffle_units()).eval() for _ in range(2)]
    fused = [fuse_for_inference(net) for net in nets]
    x = torch.randn(2, 7, 16, 14)
    fused[0].load_state_dict(fused[1].state_dict())
    with torch.no_grad():
        assert difference(fused[0](x), nets[1](x)) < 1e-5


def test_hooks_see_what_they_would_see() -> None:
    net = randomise(shuffle_units()).eval()
    x = torch.randn(2, 7, 16, 14)
    seen: list[Tensor] = []
    handle = net[1][1].pointwise.register_forward_hook(lambda module, inputs, y: seen.append(y))
    with torch.no_grad():
        expected = net(x)
        fused = fuse_for_inference(net)
        handle.remove()
        assert difference(fused(x), expected) < 1e-5
        for path in ("0", "1.1", "1.1.unit.pointwise", "0.0.unit.right.0", "1.0.unit.left"):
            calls: list[Tensor] = []
            handle = fused.get_submodule(path).register_forward_hook(lambda *arguments, calls=calls: calls.append(1))
            assert difference(fused(x), expected) < 1e-5
            handle.remove()
            assert len(calls) == 1


def test_parts_of_fused_sequences() -> None:
    net = randomise(shuffle_units()).eval()
    fused = fuse_for_inference(net)
    x = torch.randn(2, 7, 16, 14)
    with torch.no_grad():
        assert difference(fused[:2](x), net[:2](x)) < 1e-5
        assert difference(fused[1:](net[0](x)), net[1:](net[0](x))) < 1e-5
        assert difference(fused[0][:2](x), net[0][:2](x)) < 1e-5
        behind = net[0][0](x)
        assert difference(fused[0][1:](behind), net[0][1:](behind)) < 1e-5
        del fused[0][2], net[0][2]
        assert difference(fused[0](x), net[0](x)) < 1e-5
        fused[0][1] = net[0][1] = nn.Identity()
        assert difference(fused[0](x), net[0](x)) < 1e-5
        fused[1] = nn.Identity()
        assert torch.equal(fused[1](x), x)


def test_nesting_is_kept() -> None:
    pairs = [nn.Sequential(*(ShuffleUnit(12, 12, nn.Identity()) for _ in range(2))) for _ in range(2)]
    net = randomise(nn.Sequential(*pairs)).eval()
    fused = fuse_for_inference(net)
    assert type(fused) is nn.Sequential
    assert [type(part) for part in fused] == [FusedShuffleUnits] * 2
    x = torch.randn(2, 12, 5, 6)
    with torch.no_grad():
        assert difference(fused[0](x), net[0](x)) < 1e-5


def test_on_the_meta_device() -> None:
    net = shuffle_units().eval()
    x = torch.randn(2, 7, 16, 14, device="meta")
    assert fuse_for_inference(net).to("meta")(x).shape == net.to("meta")(x).shape
    assert fuse_for_inference(net)(x).shape == net(x).shape


def test_parameters_that_are_trained_after_all() -> None:
    net = randomise(shuffle_units(op="separable")).eval()
    fused = fuse_for_inference(net)
    name = next(name for name, _ in fused[1].named_parameters())
    weight = fused[1].get_parameter(name).requires_grad_()
    x = torch.randn(2, 7, 16, 14)
    fused(x).square().sum().backward()
    assert weight.grad is not None
    assert weight.grad.any()
