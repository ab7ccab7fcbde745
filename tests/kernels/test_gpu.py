"""What a GPU alone can show. Without one these tests are deselected; the emulation stands in for it elsewhere.

python -m pytest tests/kernels/test_gpu.py
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dicenas import fuse_for_inference
from dicenas.nets import dicenet
from dicenas.ops import DiCE, DimConv, dim_conv, dim_conv_reference, kernels
from dicenas.ops.kernels import cuda, launches, nvrtc
from tests.kernels.test_cpu import TOLERANCE, arguments, assert_close, reference_in_double
from tests.kernels.test_cuda import SHAPES, fused_reference, unit_reference

op = torch.ops.dicenas.dim_conv.default
backward_op = torch.ops.dicenas.dim_conv_backward.default

#: The network's own maps; on a GPU they cost nothing.
LARGE = [(64, 116, 28, 28), (8, 278, 28, 28), (3, 556, 14, 14), (32, 464, 7, 7), (2, 1112, 7, 7)]


@pytest.fixture(autouse=True)
def device(gpu: torch.device) -> torch.device:
    assert kernels.available(gpu), kernels.describe()
    torch.backends.cudnn.allow_tf32 = False
    return gpu


def on(device: torch.device, tensors: list[Tensor]) -> list[Tensor]:
    return [t.to(device).requires_grad_() for t in tensors]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("shape", [*SHAPES, *LARGE])
def test_values_and_gradients(
    shape: tuple[int, ...], kernel_size: int, dtype: torch.dtype, device: torch.device
) -> None:
    tensors = on(device, arguments(shape, kernel_size, dtype))
    grad = torch.randn(shape[0], 3 * shape[1], *shape[2:]).to(device, dtype)
    y = op(*tensors)
    expected, grads = reference_in_double(tensors, grad)
    assert (y.dtype, y.device) == (dtype, device)
    assert_close(y.detach(), expected, TOLERANCE[dtype])
    for actual, wanted in zip(torch.autograd.grad(y, tensors, grad), grads, strict=True):
        # Filters of the large maps sum up to 50000 products in float32.
        assert_close(actual, wanted, 4 * TOLERANCE[dtype])


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "sliced": lambda x: torch.cat((x, x), 1)[:, 1 : 1 + x.shape[1]],
    "expanded": lambda x: x[:1, :, :, :1].expand_as(x),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(layout: str, device: torch.device) -> None:
    x, *filters = (t.to(device) for t in arguments((3, 20, 9, 13)))
    x = LAYOUTS[layout](x)
    tensors = [x.detach().requires_grad_(), *(f.requires_grad_() for f in filters)]
    grad = torch.randn(3, 60, 13, 9, device=device).transpose(2, 3)
    expected, grads = reference_in_double(tensors, grad)
    y = op(*tensors)
    assert_close(y.detach(), expected, TOLERANCE[torch.float32])
    for actual, wanted in zip(torch.autograd.grad(y, tensors, grad), grads, strict=True):
        assert_close(actual, wanted, TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [*SHAPES, *LARGE])
def test_fused_inference(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    tensors = [t.to(device) for t in arguments(shape, 3, dtype)]
    c = shape[1]
    squeezed = max(1, c // 4)
    local, spatial = torch.randn(c, 14, device=device), torch.randn(c, 11, device=device)
    gate = torch.randn(squeezed, c, device=device) / c, torch.randn(c, squeezed, device=device) / squeezed
    fused = fused_reference([t.double() for t in tensors], local.double())
    assert_close(kernels.dim_conv_local(*tensors, local), fused, 2 * TOLERANCE[dtype])
    unit = unit_reference(fused, spatial.double(), gate[0].double(), gate[1].double())
    tolerance = 1e-5 if dtype == torch.float32 else 16 * TOLERANCE[dtype]
    assert_close(kernels.dice_unit(*tensors, local, spatial, *gate), unit, tolerance)


@pytest.mark.parametrize("scale", [0.5, 2.4])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_network(scale: float, memory_format: torch.memory_format, device: torch.device) -> None:
    net = dicenet(scale, num_classes=10, image_size=64).to(device).eval()
    fused = fuse_for_inference(net)
    for size in (64, 96):
        x = torch.randn(4, 3, size, size, device=device).contiguous(memory_format=memory_format)
        with torch.no_grad(), kernels.disabled():
            expected = net(x)
        with torch.no_grad():
            assert_close(net(x), expected, 1e-4)  # cuDNN's algorithms differ by as much
            assert_close(fused(x), expected, 1e-4)


# Streams, graphs, devices


def step(tensors: list[Tensor], grad: Tensor) -> list[Tensor]:
    y = op(*tensors)
    return [y.detach(), *torch.autograd.grad(y, tensors, grad)]


def cases(device: torch.device, number: int = 6) -> list[tuple[list[Tensor], Tensor]]:
    shape = (16, 116, 28, 28)
    return [
        (on(device, arguments(shape)), torch.randn(16, 348, 28, 28, device=device))
        for _ in range(number)
    ]  # fmt: skip


def test_several_streams(device: torch.device) -> None:
    """Each stream fills its input itself: a launch on another stream would read it too early."""
    inputs = cases(device)
    expected = [step(*case) for case in inputs]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream(device) for _ in range(3)]
    found: list[list[Tensor]] = []
    for index, (tensors, grad) in enumerate(inputs):
        with torch.cuda.stream(streams[index % 3]):
            late = torch.zeros_like(tensors[0])
            torch.cuda._sleep(20_000_000)
            late.copy_(tensors[0].detach())
            found.append(step([late.requires_grad_(), *tensors[1:]], grad))
    torch.cuda.synchronize()
    for results, wanted in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(results, wanted, strict=True))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_graph_of_forward_and_backward(dtype: torch.dtype, device: torch.device) -> None:
    shape = (4, 30, 14, 14)
    tensors = on(device, arguments(shape, 3, dtype))
    grad = torch.randn(4, 90, 14, 14).to(device, dtype)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step(tensors, grad)  # autograd wants to be warmed up; the kernels do not
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(tensors, grad)
    for _ in range(4):
        with torch.no_grad():
            for t in (*tensors, grad):
                t.copy_(torch.randn(t.shape))
        graph.replay()
        for actual, wanted in zip(captured, step(tensors, grad), strict=True):
            assert torch.equal(actual, wanted)


def test_graph_of_a_fused_network(device: torch.device) -> None:
    net = fuse_for_inference(dicenet(0.5, num_classes=10, image_size=64).to(device))
    x = torch.randn(4, 3, 64, 64, device=device)
    with torch.no_grad():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            net(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = net(x)
        for _ in range(3):
            x.copy_(torch.randn(x.shape))
            graph.replay()
            assert_close(y, net(x), 1e-4)


def test_kernels_that_were_never_run_are_captured(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_seen", set())
    cuda._load.cache_clear()
    assert kernels.available(device)  # loads all functions
    tensors = [t.to(device) for t in arguments((2, 9, 5, 6), 5, torch.bfloat16)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = op(*tensors)
    graph.replay()
    assert torch.equal(y, op(*tensors))


def test_first_use_in_a_capture_runs_in_plain_pytorch(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [t.to(device) for t in arguments((2, 9, 5, 6))]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        expected = dim_conv_reference(*tensors)  # warms cuDNN up
    torch.cuda.synchronize()
    monkeypatch.setattr(cuda, "_seen", set())
    cuda._load.cache_clear()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        y = dim_conv(*tensors)
    graph.replay()
    assert_close(y, expected, 1e-6)
    assert kernels.available(device)


def test_every_device(device: torch.device) -> None:
    """With one GPU this runs on it alone; with several the current device is not that of the tensors."""
    for index in range(torch.cuda.device_count()):
        there = torch.device("cuda", index)
        for current in range(torch.cuda.device_count()):
            with torch.cuda.device(current):
                tensors = on(there, arguments((3, 20, 9, 13)))
                grad = torch.randn(3, 60, 9, 13).to(there)
                expected, grads = reference_in_double(tensors, grad)
                for actual, wanted in zip(step(tensors, grad), [expected, *grads], strict=True):
                    assert actual.device == there
                    assert_close(actual, wanted, TOLERANCE[torch.float32])
                assert torch.cuda.current_device() == current


def test_threads_at_once(device: torch.device) -> None:
    inputs = cases(device, 2)
    expected = [step(*case) for case in inputs]
    wrong: list[int] = []

    def work(index: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream(device)):
            for _ in range(20):
                results = step(*inputs[index])
                torch.cuda.current_stream().synchronize()
                wrong.extend(index for a, b in zip(results, expected[index], strict=True) if not torch.equal(a, b))

    torch.cuda.synchronize()
    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_same_bits_from_every_run(device: torch.device) -> None:
    case = cases(device, 1)[0]
    first, *others = (step(*case) for _ in range(5))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


# With the rest of PyTorch


def test_operators_are_well_defined(device: torch.device) -> None:
    tensors = on(device, arguments((2, 6, 7, 5)))
    torch.library.opcheck(op, tensors)
    plain = [t.detach() for t in tensors]
    torch.library.opcheck(backward_op, (torch.randn(2, 18, 7, 5, device=device), *plain, True, True))
    local, spatial = torch.randn(6, 14, device=device), torch.randn(6, 11, device=device)
    gate = torch.randn(2, 6, device=device), torch.randn(6, 2, device=device)
    torch.library.opcheck(torch.ops.dicenas.dim_conv_local.default, (*plain, local))
    torch.library.opcheck(torch.ops.dicenas.dice_unit.default, (*plain, local, spatial, *gate))


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiles_as_one_graph(mode: str, device: torch.device) -> None:
    unit = DiCE(12, 12, (7, 5)).to(device)
    x = torch.randn(2, 12, 7, 5, device=device, requires_grad=True)
    compiled = torch.compile(unit, fullgraph=True, mode=mode)
    leaves = [x, *unit.parameters()]
    for _ in range(3):  # reduce-overhead records in the second run and replays in the third
        actual = [g.clone() for g in torch.autograd.grad(compiled(x).square().sum(), leaves)]
    expected = torch.autograd.grad(unit(x).square().sum(), leaves)
    for one, wanted in zip(actual, expected, strict=True):
        assert_close(one, wanted, 1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype: torch.dtype, device: torch.device) -> None:
    module = DimConv(6, (7, 5)).to(device)
    x = torch.randn(2, 6, 7, 5, device=device, requires_grad=True)
    with torch.autocast("cuda", dtype):
        y = module(x)
    assert y.dtype == dtype
    y.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    assert_close(y.detach(), module(x).detach(), 3e-2)


def test_training_step_of_a_network(device: torch.device) -> None:
    def train(net: nn.Module) -> list[float]:
        optimizer = torch.optim.SGD(net.parameters(), 0.01)
        torch.manual_seed(1)
        losses = []
        for _ in range(3):
            x, y = torch.randn(8, 3, 64, 64, device=device), torch.randint(10, (8,), device=device)
            loss = nn.functional.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    def net() -> nn.Module:
        torch.manual_seed(0)
        return dicenet(0.5, num_classes=10, image_size=64).to(device)

    with kernels.disabled():
        expected = train(net())
    assert train(net()) == pytest.approx(expected, rel=0.05)  # three steps amplify rounding


def test_bad_arguments_are_refused(device: torch.device) -> None:
    x, *filters = (t.to(device) for t in arguments((2, 4, 5, 6)))
    for bad in (
        [x, filters[0][:-1], *filters[1:]],
        [x, *filters[:2], filters[2].half()],
        [x, *filters[:2], filters[2].cpu()],
        [x.double(), *filters],
    ):
        with pytest.raises(ValueError, match="dicenas"):
            op(*bad)


def test_both_ways_to_the_code_agree(device: torch.device) -> None:
    """What nvcc compiled ahead, where there is such code, and what NVRTC compiles."""
    launcher = cuda.launcher(device)
    assert launcher is not None
    cubin = nvrtc.compile_cubin(torch.cuda.get_device_capability(device))
    tensors = [t.to(device) for t in arguments((3, 20, 9, 13))]
    compiled = launches.dim_conv(cuda.DriverLauncher(device, cubin, "NVRTC"), *tensors)
    assert_close(compiled, launches.dim_conv(launcher, *tensors), 1e-6)
