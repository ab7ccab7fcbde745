"""The operators of training against standard operators, and the modules that use them."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dicenas.ops import ConvNormAct, DiCE, kernels
from dicenas.ops.kernels import gradients, training

EPS = 1e-3
#: Largest difference of a result, relative to its largest value.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}
NAMES = ("norm_act", "depthwise_norm_act", "local_fusion")


def arguments(
    name: str, shape: tuple[int, ...], kernel_size: int = 3, gated: bool = True, dtype: torch.dtype = torch.float64
) -> tuple[list[Tensor | None], tuple[float, ...]]:
    """Tensors and scalars of an operator; the input is far from normalised."""
    n, c, h, w = shape
    filters, branches = (c, 1, kernel_size, kernel_size), 3 if name == "local_fusion" else 1
    shapes: list[tuple[int, ...] | None] = [(n, branches * c, h, w), *[(branches * c,)] * 3]
    if name == "depthwise_norm_act":
        shapes = [shapes[0], filters, *shapes[1:], (n, c) if gated else None]
    if name == "local_fusion":
        shapes += [(c, 3), *[(c,)] * 3]
    tensors = [None if s is None else torch.randn(s, dtype=torch.float64).to(dtype) for s in shapes]
    assert tensors[0] is not None
    tensors[0] = tensors[0] * 2 + 3
    return [t if t is None else t.requires_grad_() for t in tensors], (EPS,) * (2 if name == "local_fusion" else 1)


def run(function: Callable[..., Any], tensors: list[Tensor | None], scalars: tuple[float, ...]) -> list[Tensor]:
    """Results and gradients."""
    results = function(*tensors, *scalars)
    results = [r for r in ((results,) if isinstance(results, Tensor) else results) if r.requires_grad]
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r.dtype) for r in results]
    found = torch.autograd.grad(results, [t for t in tensors if t is not None], grads)
    return [*(r.detach() for r in results), *found]


def operator(name: str) -> Any:
    return training.operators[name]


def function(name: str) -> Any:
    """The operator's kernels without the dispatcher."""
    return getattr(gradients, name)


def reference(name: str) -> Any:
    return getattr(gradients, f"{name}_reference")


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    if expected.numel():
        assert (actual.double() - expected.double()).abs().max() <= tolerance * (expected.abs().max() + 1e-6)


@pytest.mark.parametrize("name", NAMES)
@given(
    n=st.integers(1, 9),
    c=st.integers(1, 6),
    h=st.integers(1, 34),
    w=st.integers(1, 34),
    kernel_size=st.sampled_from([3, 5]),
    gated=st.booleans(),
    dtype=st.sampled_from(list(TOLERANCE)),
    channels_last=st.booleans(),
    threads=st.sampled_from([1, 2, 3]),
    form=st.sampled_from([operator, function]),
)
def test_values_and_gradients(
    name: str, n: int, c: int, h: int, w: int, kernel_size: int, gated: bool, dtype: torch.dtype, channels_last: bool,
    threads: int, form: Callable[[str], Any],
) -> None:  # fmt: skip
    torch.manual_seed(n * 1000 + c * 100 + h * 10 + w)
    if n * h * w < 8:
        h = 8  # with a few values a channel, the gradient is what remains of larger numbers
    if name == "depthwise_norm_act" and h * w < 4:
        n, h, w = n, 4, 4  # the tap of a single pixel is normalised away
    tensors, scalars = arguments(name, (n, c, h, w), kernel_size, gated, dtype)
    doubles = [t if t is None else t.detach().double().requires_grad_() for t in tensors]
    if channels_last:
        tensors[0] = tensors[0].detach().to(memory_format=torch.channels_last).requires_grad_()  # type: ignore[union-attr]
    torch.set_num_threads(threads)
    try:
        actual = run(form(name), tensors, scalars)
    finally:
        torch.set_num_threads(1)
    for one, expected in zip(actual, run(reference(name), doubles, scalars), strict=True):
        assert_close(one, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("form", [operator, function])
@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name: str, form: Callable[[str], Any]) -> None:
    tensors, scalars = arguments(name, (2, 2, 4, 3))
    assert torch.autograd.gradcheck(lambda *t: form(name)(*t, *scalars)[: len(scalars)], tensors)
    assert torch.autograd.gradgradcheck(lambda *t: form(name)(*t, *scalars)[: len(scalars)], tensors)


class _WithoutGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        return None


@pytest.mark.parametrize("form", [operator, function])
@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_where_none_arrives(name: str, form: Callable[[str], Any]) -> None:
    tensors, scalars = arguments(name, (2, 3, 4, 5))
    y = form(name)(*tensors, *scalars)[0]
    _WithoutGradient.apply(y).sum().backward()
    assert all(t is None or t.grad is None or not t.grad.any() for t in tensors)


@pytest.mark.parametrize("name", NAMES)
def test_statistics(name: str) -> None:
    tensors, scalars = arguments(name, (4, 3, 6, 5), gated=False, dtype=torch.float32)
    x = tensors[0]
    assert x is not None
    if name == "depthwise_norm_act":
        x = torch.conv2d(x, tensors[1], padding=1, groups=3)
    *_, mean, var = operator(name)(*tensors, *scalars)[: 4 if name == "local_fusion" else 3]
    torch.testing.assert_close(mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(var, x.var((0, 2, 3)))
    assert not mean.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_statistics_of_values_far_from_zero(name: str) -> None:
    tensors, scalars = arguments(name, (4, 3, 32, 32), dtype=torch.float32)
    with torch.no_grad():
        tensors[0] += 1000  # type: ignore[operator]
    doubles = [t if t is None else t.detach().double() for t in tensors]
    y = operator(name)(*tensors, *scalars)[0]
    expected = reference(name)(*doubles, *scalars)
    assert_close(y, expected[0] if name == "local_fusion" else expected, 2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_operators_are_well_defined(name: str) -> None:
    tensors, scalars = arguments(name, (2, 3, 4, 5), dtype=torch.float32)
    torch.library.opcheck(operator(name), (*tensors, *scalars))
    outputs = operator(name)(*tensors, *scalars)
    results = [o.detach() for o in outputs]
    inputs = [t if t is None else t.detach() for t in tensors]
    differentiable = len(scalars)
    torch.library.opcheck(
        training.operators[f"{name}_backward"],
        (*results[:differentiable], *inputs, *results[differentiable:], *scalars),
    )


@pytest.mark.parametrize("name", NAMES)
def test_results_do_not_depend_on_threads_or_runs(name: str) -> None:
    tensors, scalars = arguments(name, (3, 37, 20, 20), dtype=torch.float32)
    results = []
    for threads in (1, 2, 3, 2):
        torch.set_num_threads(threads)
        results.append(run(function(name), tensors, scalars))
    torch.set_num_threads(1)
    for first, second in pairwise(results):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_two_threads_at_once() -> None:
    cases = [arguments("local_fusion", (2, 30, 14, 14)), arguments("local_fusion", (3, 11, 9, 20))]
    expected = [run(training.operators["local_fusion"], *case) for case in cases]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(10):
            found = run(training.operators["local_fusion"], *cases[index])
            wrong.extend(index for a, b in zip(found, expected[index], strict=True) if not torch.equal(a, b))

    torch.set_num_threads(2)
    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.set_num_threads(1)
    assert not wrong


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: [t[0][0], *t[1:]], "shape|got"),
        (lambda t: [t[0].half(), *t[1:]], "float16"),
        (lambda t: [t[0][:0], *t[1:]], "more than one value"),
        (lambda t: [t[0], t[1][:-1], *t[2:]], "expected"),
        (lambda t: [*t[:3], t[3].double(), *t[4:]], "float64"),
        (lambda t: [*t[:2], t[2].to("meta"), *t[3:]], "meta"),
    ],
)
def test_bad_arguments_are_refused(name: str, change: Callable[[Any], Any], message: str) -> None:
    tensors, scalars = arguments(name, (2, 3, 4, 5), dtype=torch.float32)
    bad = change([t if t is None else t.detach() for t in tensors])
    with pytest.raises(ValueError, match=message):
        operator(name)._op_dk(torch._C.DispatchKey.CPU, *bad, *scalars)


def step(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """One training step: the output, all gradients, and the buffers after it."""
    x = x.detach().clone().requires_grad_()
    module.zero_grad()
    y = module(x)
    y.backward(torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y).sin())
    assert x.grad is not None
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "x": x.grad, **gradients, **{k: v.clone() for k, v in module.named_buffers()}}


def assert_trains_alike(module: nn.Module, x: Tensor, tolerance: float = 1e-10, steps: int = 2) -> None:
    plain = copy.deepcopy(module)
    for _ in range(steps):
        actual = step(module, x)
        with kernels.disabled():
            expected = step(plain, x)
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            assert actual[name].dtype == value.dtype
            assert_close(actual[name], value, tolerance)


def uses_kernels(module: nn.Module, x: Tensor) -> bool:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        module(x)
    names = {event.key for event in profile.key_averages()}
    return any(f"dicenas::{name}" in names for name in (*NAMES, "dice_unit_step"))


def set_norms(module: nn.Module, **attributes: Any) -> nn.Module:
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for name, value in attributes.items():
                setattr(norm, name, value)
    return module


@pytest.mark.parametrize(
    "module",
    [
        DiCE(8, 8, (5, 6)),
        DiCE(8, 12, (5, 6)),
        DiCE(8, 8, (5, 6), 5, activation="relu"),
        DiCE(8, 8, (5, 6), shuffle=False),
        DiCE(8, 8, (5, 6), final_activation=False),
        DiCE(8, 8, (5, 6), activation="hardswish"),
        ConvNormAct(8, 8, 3, groups=8),
        ConvNormAct(8, 8, 5, groups=8, activation="relu"),
        ConvNormAct(8, 8, 3, 2, groups=8),
        ConvNormAct(8, 16, 1, activation=None),
    ],
)
def test_modules_train_alike(module: nn.Module) -> None:
    x = torch.randn(3, 8, 5, 6, dtype=torch.float64)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    assert_trains_alike(module.double(), x)
    assert uses_kernels(module, x) == ("Hardswish" not in str(module))
    assert_trains_alike(module.float(), x.float(), 2e-4)


@pytest.mark.parametrize("momentum", [None, 0.0, 0.3, 1.0])
def test_running_statistics(momentum: float | None) -> None:
    module = set_norms(DiCE(8, 8, (5, 6)).double(), momentum=momentum)
    assert_trains_alike(module, torch.randn(3, 8, 5, 6, dtype=torch.float64), steps=3)


def test_without_running_statistics() -> None:
    module = ConvNormAct(8, 8, 3, groups=8).double()
    module.norm = nn.BatchNorm2d(8, track_running_stats=False).double()
    module.act = nn.PReLU().double()  # one slope for all channels
    x = torch.randn(3, 8, 5, 6, dtype=torch.float64)
    assert uses_kernels(module, x)
    assert_trains_alike(module, x)


def test_what_the_kernels_lack_runs_the_modules() -> None:
    x = torch.randn(3, 8, 5, 6)
    unit = DiCE(8, 8, (5, 6))
    layer = ConvNormAct(8, 8, 3, groups=8)
    assert uses_kernels(layer, x)
    assert not uses_kernels(layer.eval(), x)
    layer.train()
    assert not uses_kernels(layer, x.to(memory_format=torch.channels_last))
    with torch.autocast("cpu", torch.bfloat16):
        assert not uses_kernels(unit, x)
    layer.norm.eval()  # frozen statistics
    assert not uses_kernels(layer, x)
    layer.norm = nn.BatchNorm2d(8, affine=False)
    assert not uses_kernels(layer, x)
    assert layer(torch.empty(0, 8, 5, 6)).shape == (0, 8, 5, 6)
    with pytest.raises(ValueError, match="more than 1 value"):
        ConvNormAct(8, 8, 1)(torch.randn(1, 8, 1, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "name", ["dim_conv", "norm", "act", "dim_fuse", "dim_fuse.local", "dim_fuse.gate_expand", "dim_fuse.spatial.norm"]
)
def test_hooks_see_what_they_would_see(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(3, 8, 5, 6, dtype=dtype)
    seen: dict[bool, list[Tensor]] = {}
    for plain in (False, True):
        unit = DiCE(8, 8, (5, 6)).to(dtype)
        torch.manual_seed(0)
        for parameter in unit.parameters():
            nn.init.normal_(parameter)
        outputs = seen.setdefault(plain, [])
        unit.get_submodule(name).register_forward_hook(lambda module, inputs, y, seen=outputs: seen.append(y.detach()))
        if plain:
            with kernels.disabled():
                unit(x)
        else:
            unit(x)
    for one, expected in zip(seen[False], seen[True], strict=True):
        assert_close(one, expected, TOLERANCE[dtype])
    assert len(seen[False]) == 1


@pytest.mark.parametrize(
    ("module", "backend"),
    [
        (DiCE(8, 8, (5, 6)).double(), "aot_eager"),
        (DiCE(8, 8, (5, 6)), "aot_eager"),
        (ConvNormAct(8, 8, 3, groups=8).double(), "inductor"),
    ],
)
def test_compiles_as_one_graph(module: nn.Module, backend: str) -> None:
    unit, expected = copy.deepcopy(module), copy.deepcopy(module)
    dtype = next(module.parameters()).dtype
    x = torch.randn(3, 8, 5, 6, dtype=dtype)
    compiled = torch.compile(unit, fullgraph=True, backend=backend)
    actual = {name.removeprefix("_orig_mod."): value for name, value in step(compiled, x).items()}
    for name, value in step(expected, x).items():
        assert_close(actual[name], value, TOLERANCE[dtype])


def test_exports_and_transformations_see_standard_operators() -> None:
    unit = DiCE(8, 8, (5, 6))
    x = torch.randn(3, 8, 5, 6)
    program = torch.export.export(unit, (x,))
    assert not any("dicenas" in str(node.target) for node in program.graph.nodes)
    layer = torch.fx.symbolic_trace(ConvNormAct(8, 8, 3, groups=8))
    assert {node.target for node in layer.graph.nodes} >= {"conv", "norm", "act"}
    assert DiCE(8, 8, (5, 6)).to("meta")(x.to("meta")).shape == x.shape
    layer = ConvNormAct(8, 8, 3, groups=8).double()
    layer.norm = nn.BatchNorm2d(8, track_running_stats=False).double()
    parameters = dict(layer.named_parameters())

    def loss(p: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(layer, p, (x.double(),)).pow(3).sum()

    for name, gradient in torch.func.grad(loss)(parameters).items():
        assert_close(gradient, torch.autograd.grad(loss(parameters), parameters[name])[0], 1e-10)


def test_operations_are_counted() -> None:
    x = torch.randn(3, 8, 5, 6)

    def count() -> int:
        with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
            DiCE(8, 8, (5, 6))(x)
        return int(counter.get_total_flops())

    with kernels.disabled():
        expected = count()
    assert count() == expected
