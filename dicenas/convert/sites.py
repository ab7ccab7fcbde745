"""Finds separable convolutions in any network, from a run of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dicenas.architecture import size_pair
from dicenas.cost.trace import NORMS, ModuleCall, Trace, trace_modules

__all__ = ["SeparableSite", "find_separable_convolutions", "find_sites", "make_image"]

_GATE = re.compile(r"squeeze|excit|^se(_?(layer|module|block|unit))?$|^(c?eca|ese)", re.IGNORECASE)


@dataclass(frozen=True)
class SeparableSite:
    """A separable convolution of a network: depth-wise, then point-wise, with what stands between and behind.

    Attributes:
        name: Name of the depth-wise convolution in the network, as ``named_modules`` gives it.
        pointwise: Name of the point-wise convolution, or of the linear layer that does its work.
        absorbed: Names of the other modules whose work the op takes over: norms, activations, squeeze-and-excitation.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Kernel size of the depth-wise convolution.
        stride: 1 or 2.
        in_size: ``(H, W)`` of the input.
        size: ``(H, W)`` of the output.
        activation: Activation between or behind the two, a key of ``dicenas.ops.layers.ACTIVATIONS``, where known.
        final_activation: Whether that activation stands behind the point-wise convolution.
    """

    name: str
    pointwise: str
    absorbed: tuple[str, ...]
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    in_size: tuple[int, int]
    size: tuple[int, int]
    activation: str | None
    final_activation: bool


def find_separable_convolutions(
    model: nn.Module, image_size: int | tuple[int, int], *, in_channels: int = 3
) -> tuple[SeparableSite, ...]:
    """Return the separable convolutions that :func:`convert` would replace, in the order of execution."""
    return tuple(find_sites(model, trace_modules(model, make_image(model, in_channels, image_size)))[0])


def make_image(model: nn.Module, in_channels: int, image_size: int | tuple[int, int]) -> Tensor:
    """Return an image of zeros, of the type of the network's parameters and where they are.

    Raises:
        ValueError: The image size is no size.
    """
    size = size_pair(image_size)
    if not isinstance(size, tuple | list) or len(size) != 2 or any(not isinstance(n, int) or n < 1 for n in size):
        raise ValueError(f"image_size {image_size!r} should be a number of pixels or (H, W)")
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(1, in_channels, *size, device=parameter.device, dtype=parameter.dtype)


def find_sites(model: nn.Module, trace: Trace) -> tuple[list[SeparableSite], dict[str, str]]:
    """Return the separable convolutions, and of each other depth-wise convolution why it is none."""
    times_called = trace.times_called()
    names = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    shared = {module for module in names if names[module] > 1 or times_called[module] > 1}
    sites: list[SeparableSite] = []
    left: dict[str, str] = {}
    for call in trace.calls:
        if not _is_depthwise(call.module):
            continue
        if call.module in shared:
            left[call.name] = "it is used in several places"
            continue
        found = _site(trace, call, shared)
        if isinstance(found, str):
            left[call.name] = found
        else:
            sites.append(found)
    return sites, left


def _site(trace: Trace, call: ModuleCall, shared: Collection[nn.Module]) -> SeparableSite | str:
    """Return the separable convolution that begins with this depth-wise convolution, or why there is none."""
    depthwise = call.module
    assert isinstance(depthwise, nn.Conv2d)
    if any(step > 1 for step in depthwise.dilation):
        return f"its dilation is {depthwise.dilation}"
    _, channels, height, width = call.in_shape
    size = (call.out_shape[2], call.out_shape[3])
    stride = next((s for s in (1, 2) if size == (-(-height // s), -(-width // s))), None)
    if stride is None:
        return f"it maps {height}×{width} to {size[0]}×{size[1]}, which is neither stride 1 nor 2"
    absorbed: list[str] = []
    between: str | None = None
    here = call
    while True:  # from the depth-wise convolution to the point-wise one
        step = _next(trace, here)
        if step is None:
            output = "its output" if here is call else f"the output of {here.name}"
            return f"{output} goes to several modules, or to code outside of modules"
        if step.module in shared:
            return f"{step.name} behind it is used in several places"
        if _is_pointwise(step.module, channels):
            break
        activation = _activation(step.module)
        if _is_norm(step.module) or activation is not None or _is_gate(step):
            absorbed.append(step.name)
            between = activation or between
        elif not _passes(step.module):
            return f"{type(step.module).__name__} {step.name} stands between it and a point-wise convolution"
        here = step
    pointwise = step
    behind: str | None = None
    here = pointwise
    # The norm behind, and its activation; the norm's place may be taken but once.
    while (step := _next(trace, here)) is not None and step.module not in shared:
        activation = _activation(step.module)
        if (_is_norm(step.module) and here is pointwise) or (activation is not None and behind is None):
            behind = activation
        else:
            break
        absorbed.append(step.name)
        if behind is not None:
            break
        here = step
    return SeparableSite(
        name=call.name,
        pointwise=pointwise.name,
        absorbed=tuple(absorbed),
        in_channels=channels,
        out_channels=_out_channels(pointwise.module),
        kernel_size=depthwise.kernel_size[0],
        stride=stride,
        in_size=(height, width),
        size=size,
        activation=behind or between,
        final_activation=behind is not None,
    )


def _next(trace: Trace, call: ModuleCall) -> ModuleCall | None:
    """Return the one call that takes this call's output; a gate counts as one, with all that happens inside it."""
    if call.index in trace.read_elsewhere:
        return None
    consumers = trace.consumers(call)
    gates = [consumer for consumer in consumers if _is_gate(consumer)]
    if gates:
        outermost = gates[0]
        consumers = [c for c in consumers if c is outermost or outermost.index not in c.inside]
    # A container takes what the first module inside it takes; it is not a second reader.
    consumers = [c for c in consumers if c.makes_output]
    return consumers[0] if len(consumers) == 1 else None


def _is_depthwise(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.groups == module.in_channels == module.out_channels > 1
        and module.kernel_size != (1, 1)
    )


def _is_pointwise(module: nn.Module, channels: int) -> bool:
    if isinstance(module, nn.Linear):
        return module.in_features == channels
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == module.stride == (1, 1)
        and module.groups == 1
        and module.in_channels == channels
    )


def _out_channels(module: nn.Module) -> int:
    assert isinstance(module, nn.Conv2d | nn.Linear)
    return module.out_channels if isinstance(module, nn.Conv2d) else module.out_features


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, NORMS)


def _is_gate(call: ModuleCall) -> bool:
    """Whether the call scales channels: squeeze-and-excitation, under whatever name."""
    return bool(_GATE.search(type(call.module).__name__)) and call.in_shape == call.out_shape and call.makes_output


def _passes(module: nn.Module) -> bool:
    """Whether the module hands its input on, in evaluation mode."""
    return isinstance(module, nn.Identity | nn.modules.dropout._DropoutNd) or (
        type(module).__name__ in {"DropPath", "StochasticDepth", "Permute"}
    )


#: What an activation of another library computes, as this package calls it.
_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.PReLU: "prelu",
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Hardswish: "hardswish",
    nn.SiLU: "silu",
}


def _activation(module: nn.Module) -> str | None:
    """Return the name of an activation, or of that inside a norm which activates (timm's ``BatchNormAct2d``)."""
    if _is_norm(module):
        inner = getattr(module, "act", None)
        return None if inner is None else _activation(inner)
    return next((name for kind, name in _ACTIVATIONS.items() if isinstance(module, kind)), None)
