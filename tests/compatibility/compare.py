"""What a module computes, in training and in inference, and how far two results of it are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dicenas.ops import kernels
from tests.compatibility.subjects import Subject

Run = Callable[[Tensor], Tensor]

#: Largest difference in float32, relative to what it is a difference of.
ROUNDING = 1e-4
#: A gradient may be a sum of large numbers that is nearly 0: none is held to less than this share of the largest one.
FLOOR = 0.01


@dataclass(frozen=True)
class Results:
    """Output, gradients of the input and of the parameters, and buffers after a step; the last two by name."""

    output: Tensor
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]


def training_step(module: nn.Module, x: Tensor, run: Run | None = None) -> Results:
    """Run one step; ``run`` is what computes the output where it is not the module itself."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    module.zero_grad()
    y = (module if run is None else run)(x)
    y.backward(torch.linspace(-1, 2, y.numel(), dtype=y.dtype, device=y.device).view(y.shape).sin())
    gradients = {"of the input": x.grad, **{name: p.grad for name, p in module.named_parameters()}}
    missing = [name for name, gradient in gradients.items() if gradient is None]
    assert not missing, f"no gradient: {missing}"
    buffers = {name: buffer.detach().clone() for name, buffer in module.named_buffers()}
    return Results(y.detach(), {k: g for k, g in gradients.items() if g is not None}, buffers)


def inference(module: nn.Module, x: Tensor, run: Run | None = None) -> Results:
    """Run the module in inference mode."""
    module.eval()
    with torch.no_grad():
        return Results((module if run is None else run)(x), {}, {})


def results(subject: Subject, training: bool, device: str = "cpu") -> Results:
    """What eager execution gives in float32, in plain PyTorch operators: what all else is held to."""
    with kernels.disabled():
        step = training_step if training else inference
        return step(subject.module().to(device), subject.input().to(device))


def modes(subject: Subject) -> tuple[bool, ...]:
    """Whether it is trained, for each way in which the subject can run."""
    return (True, False) if subject.trains else (False,)


@contextmanager
def kernels_used(used: bool, device: str = "cpu") -> Iterator[None]:
    """Run with the native kernels, or without them."""
    assert kernels.available(device), f"no kernels: {kernels.describe()}"
    with nullcontext() if used else kernels.disabled():
        yield


def norm(*tensors: Tensor) -> float:
    return float(sum(t.double().square().sum() for t in tensors)) ** 0.5


def assert_same(found: Results, expected: Results, tolerance: float = ROUNDING, *, buffers: bool = True) -> None:
    """Raise AssertionError unless each tensor is the expected one, up to rounding."""
    differences = {"output": (found.output, expected.output, 0.0)}
    floor = FLOOR * max(map(norm, expected.gradients.values()), default=0.0)
    assert found.gradients.keys() == expected.gradients.keys()
    differences |= {f"gradient {k}": (found.gradients[k], v, floor) for k, v in expected.gradients.items()}
    if buffers:
        assert found.buffers.keys() == expected.buffers.keys()
        differences |= {k: (found.buffers[k], v, 0.0) for k, v in expected.buffers.items()}
    for name, (one, other, least) in differences.items():
        assert one.shape == other.shape, f"{name} has shape {tuple(one.shape)}, expected {tuple(other.shape)}"
        error = norm(one.double() - other.double()) / max(norm(other), least, 1e-6)
        assert error <= tolerance, f"{name} differs by {error:.2g} of its size, more than {tolerance:.2g}"


def distances(found: Results, expected: Results) -> tuple[float, float]:
    """Return how far outputs are apart, and all gradients as one vector, in parts of their size."""
    output = norm(found.output.double() - expected.output.double()) / norm(expected.output)
    if not expected.gradients:
        return output, 0.0
    apart = [found.gradients[k].double() - v.double() for k, v in expected.gradients.items()]
    return output, norm(*apart) / norm(*expected.gradients.values())


def assert_near(found: Results, expected: Results, output: float, gradients: float) -> None:
    """Raise AssertionError unless the output, and all gradients as one vector, are near: for lower precision."""
    of_output, of_gradients = distances(found, expected)
    assert of_output <= output, f"the output differs by {of_output:.2g} of its size, more than {output:.2g}"
    assert of_gradients <= gradients, (
        f"the gradients differ by {of_gradients:.2g} of their size, more than {gradients:.2g}"
    )
