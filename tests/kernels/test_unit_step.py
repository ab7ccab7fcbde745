"""The DiCE unit in training as one function of autograd, and where it has to leave that to the modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from dicenas.ops import ConvNormAct, DiCE, kernels
from dicenas.ops.kernels import unit_step
from tests.kernels.test_training import assert_close, run


def unit_arguments(n: int, c: int, h: int, w: int, kernel_size: int, native: tuple[int, int]) -> list[Tensor]:
    shapes: list[tuple[int, ...]] = [(n, c, h, w)]
    shapes += [(filters, 1, kernel_size, kernel_size) for filters in (c, native[1], native[0])]
    shapes += [*[(3 * c,)] * 3, (c, 3, 1, 1), *[(c,)] * 3, (c // 4, c, 1, 1), (c, c // 4, 1, 1)]
    shapes += [(c, 1, 3, 3), *[(c,)] * 3]
    return [torch.randn(shape).requires_grad_() for shape in shapes]


UNIT_EPS = (1e-3, 2e-3, 3e-3)


@given(
    n=st.integers(1, 5),
    c=st.integers(4, 13),
    h=st.integers(3, 20),
    w=st.integers(3, 20),
    kernel_size=st.sampled_from([3, 5]),
    native=st.none() | st.tuples(st.integers(1, 20), st.integers(1, 20)),
    threads=st.sampled_from([1, 2, 3]),
)
def test_values_and_gradients_of_the_unit(
    n: int, c: int, h: int, w: int, kernel_size: int, native: tuple[int, int] | None, threads: int
) -> None:
    torch.manual_seed(n * 1000 + c * 100 + h * 10 + w)
    tensors = unit_arguments(n, c, h, w, kernel_size, native or (h, w))
    doubles = [t.detach().double().requires_grad_() for t in tensors]
    torch.set_num_threads(threads)
    try:
        actual = run(unit_step.dice_unit_step, list(tensors), UNIT_EPS)
    finally:
        torch.set_num_threads(1)
    for one, expected in zip(actual, run(unit_step.dice_unit_reference, list(doubles), UNIT_EPS), strict=True):
        assert_close(one, expected, 1e-3)


def test_second_derivatives_of_the_unit() -> None:
    torch.manual_seed(0)
    tensors = unit_arguments(2, 8, 5, 6, 3, (5, 6))

    def second(of: Callable[..., Any], inputs: list[Tensor]) -> list[Tensor]:
        y = of(*inputs, *UNIT_EPS)
        first = torch.autograd.grad((y if isinstance(y, Tensor) else y[0]).pow(2).sum(), inputs, create_graph=True)
        return list(torch.autograd.grad(sum(g.sin().sum() for g in first), inputs))

    doubles = [t.detach().double().requires_grad_() for t in tensors]
    for one, expected in zip(
        second(unit_step.dice_unit_step, tensors), second(unit_step.dice_unit_reference, doubles), strict=True
    ):
        assert_close(one, expected, 1e-3)


def test_results_do_not_depend_on_threads_or_runs() -> None:
    tensors = unit_arguments(3, 37, 20, 20, 3, (20, 20))
    results = []
    for threads in (1, 2, 3, 2):
        torch.set_num_threads(threads)
        results.append(run(unit_step.dice_unit_step, list(tensors), UNIT_EPS))
    torch.set_num_threads(1)
    for first, second in pairwise(results):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def unit_and_input() -> tuple[DiCE, Tensor]:
    torch.manual_seed(0)
    return DiCE(8, 8, (5, 6)), torch.randn(3, 8, 5, 6, requires_grad=True)


def gradients_of(module: nn.Module, x: Tensor, of: Sequence[Tensor], **options: Any) -> list[Tensor | None]:
    return list(torch.autograd.grad(module(x).square().sum(), of, **options))


def assert_alike(module: nn.Module, x: Tensor, tolerance: float = 1e-4, **options: Any) -> None:
    """The gradients are those without kernels."""
    inputs = [t for t in (x, *module.parameters()) if t.requires_grad]
    found = gradients_of(module, x, inputs, **options)
    with kernels.disabled():
        expected = gradients_of(module, x, inputs, **options)
    # Some are zero but for rounding, such as those of a bias that is normalised away.
    largest = max(float(other.detach().abs().max()) for other in expected if other is not None)
    for one, other in zip(found, expected, strict=True):
        assert one is not None
        assert other is not None
        assert (one - other).abs().max() <= tolerance * (other.abs().max() + 0.01 * largest)


def test_it_is_one_node() -> None:
    unit, x = unit_and_input()
    node = unit(x).grad_fn
    assert "dice_unit_step" in node.name()
    assert {type(f).__name__ for f, _ in node.next_functions if f is not None} == {"AccumulateGrad"}


@pytest.mark.parametrize(
    "trained", [slice(0, 1), slice(1, 4), slice(4, 12), slice(12, 13), slice(13, 17), slice(16, 17)]
)
def test_some_of_the_parameters_are_trained(trained: slice) -> None:
    unit, x = unit_and_input()
    wanted = [x, *unit.parameters()][trained]
    for t in (x, *unit.parameters()):
        t.requires_grad_(any(t is other for other in wanted))
    assert_alike(unit, x)


def test_many_gradients_at_once() -> None:
    unit, x = unit_and_input()
    y = unit(x).flatten()[:4]
    batch = torch.autograd.grad(y, x, torch.eye(4), is_grads_batched=True, retain_graph=True)[0]
    for i, gradient in enumerate(batch):
        assert_close(gradient, torch.autograd.grad(y[i], x, retain_graph=True)[0], 1e-5)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(*[DiCE(8, 8, (5, 6))] * 2),
        DiCE(8, 8, (5, 6), shuffle=False),
        nn.Sequential(*[ConvNormAct(8, 8, 3, groups=8)] * 2),
        nn.Sequential(*[DiCE(8, 8, (5, 6)).dim_conv] * 2),
    ],
)
def test_gradients_that_can_be_differentiated_again(module: nn.Module) -> None:
    # An input of an operator may come from another one: its own gradient is wanted, not that of all that it came from.
    if isinstance(module, nn.Sequential) and not isinstance(module[0], DiCE | ConvNormAct):
        module.insert(1, nn.Conv2d(24, 8, 1))
    assert_alike(module, torch.randn(2, 8, 5, 6, requires_grad=True), create_graph=True)


def test_backward_under_autocast_and_in_modes() -> None:
    unit, x = unit_and_input()
    expected = torch.autograd.grad(unit(x).square().sum(), x)[0]
    loss = unit(x).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(torch.autograd.grad(loss, x)[0], expected)

    def count() -> int:
        y = unit(x).sum()
        with FlopCounterMode(display=False) as counter:
            y.backward()
        return int(counter.get_total_flops())

    counted = count()
    with FlopCounterMode(display=False) as counter:
        y = unit(x)
    assert counted > counter.get_total_flops() > 0
    y = unit(x).sum()
    with FakeTensorMode(allow_non_fake_inputs=True):
        y.backward()


def test_tensors_that_are_more_or_less_than_memory() -> None:
    unit, x = unit_and_input()
    plain = unit(x)
    zeros = torch._efficientzerotensor(tuple(x.shape))
    assert torch.equal(unit(zeros), unit(torch.zeros_like(x)))
    assert torch.equal(unit(torch._neg_view(x.detach())), unit(-x.detach()))

    class Named(torch.Tensor):
        pass

    unit.norm.weight = nn.Parameter(unit.norm.weight.detach().as_subclass(Named))
    assert_close(unit(x).as_subclass(torch.Tensor), plain, 1e-6)


def test_saved_tensors_that_come_back_as_others_are_refused() -> None:
    unit, x = unit_and_input()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.half() if t.shape == x.shape else t, lambda t: t):
        y = unit(x)
    with pytest.raises(ValueError, match="dicenas"):
        y.sum().backward()


class _Counted(nn.Module):
    calls = 0

    def forward(self, weight: Tensor) -> Tensor:
        self.calls += 1
        return weight


@pytest.mark.parametrize("training", [True, False])
def test_parametrizations_are_evaluated_once(training: bool) -> None:
    unit, x = unit_and_input()
    counted = _Counted()
    parametrize.register_parametrization(unit.dim_conv, "weight_channel", counted)
    counted.calls = 0
    unit.train(training)(x)
    assert counted.calls == 1


def grouped_gate(unit: DiCE) -> None:
    unit.dim_fuse.gate_expand = nn.Conv2d(2, 8, 1, groups=2, bias=False)


def strided_fusion(unit: DiCE) -> None:
    unit.dim_fuse.local.conv = nn.Conv2d(24, 8, 1, stride=2, groups=8, bias=False)


def dense_fusion(unit: DiCE) -> None:
    unit.dim_fuse.local.conv = nn.Conv2d(24, 8, 1, bias=False)


def other_shuffle(unit: DiCE) -> None:
    unit.dim_fuse.shuffle.groups = 2


def other_convolution(unit: DiCE) -> None:
    unit.dim_conv = nn.Conv2d(8, 24, 1)


def other_fusion(unit: DiCE) -> None:
    unit.dim_fuse = nn.Conv2d(24, 8, 1)


def norm_without_bias(unit: DiCE) -> None:
    unit.norm.bias = None


@pytest.mark.parametrize(
    "change",
    [
        grouped_gate,
        strided_fusion,
        dense_fusion,
        other_shuffle,
        other_convolution,
        other_fusion,
        norm_without_bias,
    ],
)
def test_other_modules_in_its_place(change: Callable[[DiCE], None]) -> None:
    unit, x = unit_and_input()
    change(unit)
    assert_alike(unit, x)
    assert torch.isfinite(unit.eval()(x)).all()
