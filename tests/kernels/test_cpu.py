"""The CPU kernels against the plain PyTorch form, in value and gradient."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dicenas.ops import DiCE, DimConv, dim_conv, dim_conv_reference

op = torch.ops.dicenas.dim_conv.default
backward_op = torch.ops.dicenas.dim_conv_backward.default

SHAPES = [
    (1, 1, 1, 1),
    (2, 5, 3, 2),
    (2, 10, 7, 7),
    (3, 17, 14, 14),
    (2, 5, 9, 17),
    (1, 3, 70, 33),
    (1, 37, 28, 28),
    (9, 9, 4, 12),
    (0, 4, 5, 6),
]
#: Shapes of the input, and native sizes of both axes or of one.
OTHER_SIZES = [
    ((2, 13, 32, 32), (28, 28)),
    ((1, 9, 28, 56), (14, 28)),
    ((2, 5, 5, 4), (7, 9)),
    ((1, 40, 8, 20), (8, 33)),
    ((3, 6, 1, 1), (7, 7)),
    ((1, 3, 9, 13), (1, 1)),
]
#: Largest difference from float32 arithmetic, relative to the largest value.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def arguments(
    shape: tuple[int, ...],
    kernel_size: int = 3,
    dtype: torch.dtype = torch.float32,
    native: tuple[int, ...] | None = None,
) -> list[Tensor]:
    """An input and filters, for its own size or for that of ``native`` (H, W)."""
    _, c, *size = shape
    h, w = native or size
    k = kernel_size
    shapes = (shape, (c, 1, k, k), (w, 1, k, k), (h, 1, k, k))
    return [torch.randn(s).to(dtype) for s in shapes]


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    if expected.numel():
        assert (actual.double() - expected.double()).abs().max() <= tolerance * (expected.abs().max() + 1e-6)


def reference_in_double(tensors: list[Tensor], grad: Tensor) -> tuple[Tensor, list[Tensor]]:
    doubles = [t.detach().double().requires_grad_() for t in tensors]
    y = dim_conv_reference(*doubles)
    return y.detach(), list(torch.autograd.grad(y, doubles, grad.double()))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize(("shape", "native"), [*((shape, None) for shape in SHAPES), *OTHER_SIZES])
def test_values_and_gradients(
    shape: tuple[int, ...], native: tuple[int, int] | None, kernel_size: int, dtype: torch.dtype
) -> None:
    tensors = arguments(shape, kernel_size, dtype, native)
    for t in tensors:
        t.requires_grad_()
    y = op(*tensors)
    grad = torch.randn(y.shape).to(dtype)
    expected, grads = reference_in_double(tensors, grad)
    assert y.dtype == dtype
    assert_close(y.detach(), expected, TOLERANCE[dtype])
    for actual, wanted in zip(torch.autograd.grad(y, tensors, grad), grads, strict=True):
        assert_close(actual, wanted, TOLERANCE[dtype])


@given(
    n=st.integers(1, 5),
    c=st.integers(1, 40),
    h=st.integers(1, 40),
    w=st.integers(1, 40),
    native=st.none() | st.tuples(st.integers(1, 50), st.integers(1, 50)),
    kernel_size=st.sampled_from([3, 5]),
    dtype=st.sampled_from(list(TOLERANCE)),
    layout=st.sampled_from(["contiguous", "channels_last", "sliced", "expanded", "transposed"]),
    turned=st.booleans(),
    threads=st.sampled_from([1, 2, 3]),
)
def test_any_shape_and_strides(
    n: int,
    c: int,
    h: int,
    w: int,
    native: tuple[int, int] | None,
    kernel_size: int,
    dtype: torch.dtype,
    layout: str,
    turned: bool,
    threads: int,
) -> None:
    torch.manual_seed(n * 1000 + c * 100 + h * 10 + w)
    x, *filters = arguments((n, c, h, w), kernel_size, dtype, native)
    grad = torch.randn(n, 3 * c, h, w).to(dtype)
    if turned:
        grad = torch.randn(n, 3 * c, w, h).to(dtype).transpose(2, 3)
        filters = [f.transpose(2, 3) for f in filters]
    x = {
        "contiguous": lambda: x,
        "channels_last": lambda: x.to(memory_format=torch.channels_last),
        "sliced": lambda: torch.randn(n + 1, c + 2, h + 3, w + 1).to(dtype)[1:, 1:-1, 2:-1, 1:],
        "expanded": lambda: torch.randn(1, c, h, 1).to(dtype).expand(n, c, h, w),
        "transposed": lambda: torch.randn(n, c, w, h).to(dtype).transpose(2, 3),
    }[layout]()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        tensors = [x.detach().requires_grad_(), *(f.requires_grad_() for f in filters)]
        y = op(*tensors)
        actual = torch.autograd.grad(y, tensors, grad)
    finally:
        torch.set_num_threads(before)
    expected, grads = reference_in_double(tensors, grad)
    assert_close(y.detach(), expected, TOLERANCE[dtype])
    for one, wanted in zip(actual, grads, strict=True):
        assert_close(one, wanted, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("native", [(25, 31), (28, 28)])
def test_results_that_do_not_fit_the_cache(native: tuple[int, int], dtype: torch.dtype) -> None:
    # They go past it; the last channels do not fill a chunk, and maps begin anywhere in a line of the cache.
    tensors = arguments((8 * 4 // dtype.itemsize, 113, 25, 31), 3, dtype, native)
    y = op(*tensors)
    assert y.numel() * y.element_size() > 8 * 2**20
    for image in (0, -1):
        x, *filters = (t.double() for t in tensors)
        expected = dim_conv_reference(x[image : image + 1 or None], *filters)
        assert_close(y[image : image + 1 or None], expected, TOLERANCE[dtype])


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_other_instruction_sets(isa: str) -> None:
    program = (
        "import torch; from dicenas.ops import dim_conv, dim_conv_reference\n"
        "torch.manual_seed(0)\n"
        "for dtype, limit in ((torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 1e-1)):\n"
        "    for n, c, h, w, rows, columns in ((2, 5, 9, 17, 9, 17), (1, 20, 7, 7, 7, 7), (1, 3, 2, 3, 2, 3),\n"
        "                                      (1, 6, 33, 40, 28, 35), (1, 6, 5, 6, 9, 20)):\n"
        "        t = [torch.randn(s) for s in ((n, c, h, w), (c, 1, 3, 3), (columns, 1, 3, 3), (rows, 1, 3, 3))]\n"
        "        t = [v.to(dtype) for v in t]\n"
        "        got = torch.ops.dicenas.dim_conv(*t).double()\n"
        "        error = (got - dim_conv_reference(*(v.double() for v in t))).abs().max()\n"
        "        assert error < limit, (dtype, float(error))\n"
        "from dicenas.ops import DiCE, kernels\n"
        "x = torch.randn(2, 10, 9, 17)\n"
        "for size in ((9, 17), (12, 20)):\n"
        "    unit = DiCE(10, 10, size)\n"
        "    y = unit(x)\n"
        "    with kernels.disabled():\n"
        "        assert (unit(x) - y).abs().max() < 1e-4\n"
        "weight, bias, slope = torch.randn(23, 10), torch.randn(23), torch.rand(23)\n"
        "y = torch.nn.functional.prelu(torch.nn.functional.conv2d(x, weight[:, :, None, None], bias), slope)\n"
        "assert (kernels.pointwise(x, weight, bias, slope) - y).abs().max() < 1e-4\n"
    )
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "DICENAS_CPU_ISA": isa}, check=True)


def test_special_values_of_half_precision() -> None:
    values = torch.tensor([0.0, -0.0, 1e-7, 6e-8, 65504.0, -65504.0, float("inf"), float("nan"), 1.0009765625])
    for dtype in (torch.float16, torch.bfloat16):
        x = values.to(dtype).reshape(1, 9, 1, 1)
        identity = torch.zeros(9, 1, 3, 3, dtype=dtype)
        identity[:, :, 1, 1] = 1
        other = torch.zeros(1, 1, 3, 3, dtype=dtype)
        y = op(x, identity, other, other)[:, :9]
        finite = values.to(dtype).isfinite()
        assert torch.equal(y[:, finite], x[:, finite])
        assert y[0, 6, 0, 0].isnan() or y[0, 6, 0, 0].isinf()  # 0 * inf of the other taps, as in the reference
        assert y[0, 7, 0, 0].isnan()


def test_operator_is_well_defined() -> None:
    tensors = [t.requires_grad_() for t in arguments((2, 6, 7, 5))]
    torch.library.opcheck(op, tensors)
    grad = torch.randn(2, 18, 7, 5)
    torch.library.opcheck(backward_op, (grad, *(t.detach() for t in tensors), True, True))


def test_reference_passes_gradcheck() -> None:
    doubles = [t.double().requires_grad_() for t in arguments((2, 3, 4, 5))]
    assert torch.autograd.gradcheck(dim_conv_reference, doubles)


def test_second_derivatives_are_the_references() -> None:
    tensors = [t.requires_grad_() for t in arguments((1, 3, 4, 5))]

    def penalty(function: object) -> tuple[Tensor, ...]:
        (grad,) = torch.autograd.grad(function(*tensors).square().sum(), tensors[0], create_graph=True)  # type: ignore[operator]
        return torch.autograd.grad(grad.square().sum(), tensors)

    for actual, expected in zip(penalty(op), penalty(dim_conv_reference), strict=True):
        assert_close(actual, expected, 1e-5)


def test_only_the_wanted_gradients() -> None:
    x, *filters = arguments((2, 4, 5, 6))
    empty = backward_op(torch.randn(2, 12, 5, 6), x, *filters, False, True)[0]
    assert empty.numel() == 0
    y = op(x, *(f.requires_grad_() for f in filters))
    y.sum().backward()
    assert x.grad is None
    assert all(f.grad is not None for f in filters)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_torchs_defaults_change_nothing(dtype: torch.dtype) -> None:
    unit, x = DiCE(8, 8, (5, 6)), torch.randn(2, 8, 5, 6, requires_grad=True)
    inputs = [x, *unit.parameters()]
    expected = torch.autograd.grad(unit(x).square().sum(), inputs)
    torch.set_default_dtype(dtype)
    torch.set_default_device("meta")
    try:
        found = torch.autograd.grad(unit(x).square().sum(), inputs)
        whole = torch.autograd.grad(unit.dim_conv(x).square().sum(), x)[0]
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(whole, torch.autograd.grad(unit.dim_conv(x).square().sum(), x)[0])


@pytest.mark.parametrize("native", [(28, 28), (24, 26)])
def test_results_do_not_depend_on_threads_or_runs(native: tuple[int, int]) -> None:
    tensors = [t.requires_grad_() for t in arguments((5, 70, 28, 28), native=native)]
    grad = torch.randn(5, 210, 28, 28)
    results = []
    for threads in (1, 2, 3, 2):
        torch.set_num_threads(threads)
        y = op(*tensors)
        results.append((y, *torch.autograd.grad(y, tensors, grad)))
    torch.set_num_threads(1)
    for first, second in pairwise(results):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_two_threads_at_once() -> None:
    cases = [arguments((2, 30, 14, 14)), arguments((3, 11, 9, 20), native=(7, 28))]
    expected = [op(*case) for case in cases]
    wrong: list[int] = []

    def work(index: int) -> None:
        wrong.extend(index for _ in range(30) if not torch.equal(op(*cases[index]), expected[index]))

    torch.set_num_threads(2)
    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.set_num_threads(1)
    assert not wrong


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: [t[0][0], *t[1:]], "input"),
        (lambda t: [t[0].double(), *t[1:]], "float64"),
        (lambda t: [t[0][:, :, :0], *t[1:]], "empty"),
        (lambda t: [t[0], t[1][:-1], *t[2:]], "weight_channel"),
        (lambda t: [*t[:2], t[2][:0], t[3]], "weight_width"),
        (lambda t: [*t[:3], t[3][:0]], "weight_height"),
        (lambda t: [*t[:3], torch.randn(5, 1, 5, 5)], "weight_height"),
        (lambda t: [t[0], *(torch.randn(len(f), 1, 7, 7) for f in t[1:])], "size 3 and 5"),
        (lambda t: [*t[:3], t[3].half()], "float16"),
        (lambda t: [*t[:3], t[3].to("meta")], "meta"),
    ],
)
def test_bad_arguments_are_refused(change: object, message: str) -> None:
    bad = change(arguments((2, 4, 5, 6)))  # type: ignore[operator]
    with pytest.raises((ValueError, NotImplementedError), match=message):
        torch.ops.dicenas.dim_conv.default._op_dk(torch._C.DispatchKey.CPU, *bad)


def test_mismatched_gradient_is_refused() -> None:
    tensors = arguments((2, 4, 5, 6))
    for grad in (torch.randn(2, 12, 5, 7), torch.randn(2, 12, 5, 6).half()):
        with pytest.raises(ValueError, match="grad"):
            backward_op(grad, *tensors, True, True)


@pytest.mark.parametrize("size", [(7, 5), (9, 4)])
def test_compiles_as_one_graph(size: tuple[int, int]) -> None:
    module = DimConv(6, (7, 5))
    tensors = [torch.randn(2, 6, *size).requires_grad_(), *module.parameters()]

    def loss(x: Tensor) -> Tensor:
        return torch.relu(module(x) * 2).square().sum()

    compiled = torch.compile(loss, fullgraph=True)
    expected = torch.autograd.grad(loss(tensors[0]), tensors)
    for actual, wanted in zip(torch.autograd.grad(compiled(tensors[0]), tensors), expected, strict=True):
        assert_close(actual, wanted, 1e-5)


def test_one_graph_serves_every_size() -> None:
    module = DimConv(6, (7, 5)).eval()
    compiled = torch.compile(module, fullgraph=True, dynamic=True)
    with torch.no_grad(), torch.compiler.set_stance("default"):
        compiled(torch.randn(2, 6, 8, 11))
        with torch.compiler.set_stance("fail_on_recompile"):
            for size in ((9, 4), (16, 20)):
                x = torch.randn(3, 6, *size)
                assert_close(compiled(x), module(x), 1e-6)


def test_autocast_runs_in_the_lower_precision() -> None:
    module = DimConv(6, (7, 5))
    x = torch.randn(2, 6, 7, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
        assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    assert module.weight_width.grad is not None
    assert_close(y.detach().float(), module(x).detach(), 3e-2)


def test_vmap() -> None:
    tensors = arguments((2, 4, 5, 6))
    xs = torch.randn(3, 2, 4, 5, 6)
    expected = torch.stack([op(x, *tensors[1:]) for x in xs])
    assert_close(torch.vmap(lambda x: op(x, *tensors[1:]))(xs), expected, 1e-6)
    filters = torch.randn(3, 4, 1, 3, 3)
    expected = torch.stack([op(tensors[0], f, *tensors[2:]) for f in filters])
    assert_close(torch.vmap(lambda f: op(tensors[0], f, *tensors[2:]))(filters), expected, 1e-6)


def test_what_the_kernels_lack_runs_in_plain_pytorch() -> None:
    for size in ((7, 5), (9, 6)):
        for kernel_size, dilation, dtype in (
            (7, (1, 1, 1), torch.float32),
            (3, (2, 1, 1), torch.float32),
            (3, (1, 1, 1), torch.float64),
        ):
            module = DimConv(6, (7, 5), kernel_size, dilation).to(dtype)
            x = torch.randn(2, 6, *size, dtype=dtype)
            weights = (module.weight_channel, module.weight_width, module.weight_height)
            assert torch.equal(module(x), dim_conv_reference(x, *weights, dilation))


def test_other_sizes_run_by_the_kernels() -> None:
    module = DimConv(6, (7, 5))
    for size in ((7, 5), (9, 5), (7, 6), (3, 20)):
        x = torch.randn(2, 6, *size)
        assert torch.equal(module(x), op(x, module.weight_channel, module.weight_width, module.weight_height))


def test_work_counts_the_native_size() -> None:
    x, *filters = arguments((2, 4, 9, 11), native=(7, 5))
    with FlopCounterMode(display=False) as counter:
        op(x, *filters)
    assert counter.get_total_flops() == 2 * 2 * 4 * (9 * 11 + 7 * 11 + 9 * 5) * 9


def test_forward_mode_differentiation() -> None:
    x, *filters = arguments((1, 3, 4, 5))
    tangent = torch.randn_like(x)
    _, actual = torch.func.jvp(lambda x: dim_conv(x, *filters), (x,), (tangent,))
    assert_close(actual, dim_conv_reference(tangent, *filters), 1e-5)


@pytest.mark.parametrize("size", [(4, 5), (6, 3)])
def test_differentiation_by_torch_func(size: tuple[int, int]) -> None:
    _, *filters = arguments((1, 3, 4, 5))
    xs = torch.randn(3, 1, 3, *size, requires_grad=True)
    actual = torch.func.vmap(torch.func.grad(lambda x: dim_conv(x, *filters).square().sum()))(xs)
    (expected,) = torch.autograd.grad(dim_conv_reference(xs[:, 0], *filters).square().sum(), xs)
    assert_close(actual, expected, 1e-5)


def test_transformations_compile_as_one_graph() -> None:
    _, *filters = arguments((1, 3, 4, 5))
    xs = torch.randn(2, 1, 3, 6, 5)
    for transformed in (
        torch.vmap(lambda x: dim_conv(x, *filters)),
        torch.vmap(torch.func.grad(lambda x: dim_conv(x, *filters).square().sum())),
    ):
        compiled = torch.compile(transformed, fullgraph=True, backend="eager")
        assert_close(compiled(xs), transformed(xs), 1e-6)


@pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning",
    "ignore:.*torch.jit.trace.*:FutureWarning",
    "ignore:.*torch.jit.trace.*:DeprecationWarning",
)
def test_exported_programs_hold_standard_operators() -> None:
    module = DimConv(6, (7, 5)).eval()
    x = torch.randn(2, 6, 7, 5)
    program = torch.export.export(module, (x,))
    assert not any("dicenas" in str(node.target) for node in program.graph.nodes)
    assert "dicenas::" not in str(torch.jit.trace(module, x).graph)


SWITCHED_OFF = """
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from dicenas import fuse_for_inference
from dicenas.nets import dicenet
from dicenas.ops import kernels

class Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.namespace != "dicenas", func
        return func(*args, **(kwargs or {}))

assert not kernels.available("cpu") and kernels.load_library("cpu").handle is None
net = dicenet(0.2, num_classes=10, image_size=32)
with Operators():
    net(torch.randn(2, 3, 32, 32)).sum().backward()
    with torch.no_grad():
        fuse_for_inference(net)(torch.randn(2, 3, 32, 32))
"""


@pytest.mark.parametrize("value", ["off", "sometimes"])
def test_the_switch(value: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SWITCHED_OFF],
        env={**os.environ, "DICENAS_KERNELS": value},
        capture_output=True,
        text=True,
        check=False,
    )
    if value == "off":
        assert done.returncode == 0, done.stderr
    else:
        assert "DICENAS_KERNELS is 'sometimes', expected 'on' or 'off'" in done.stderr
