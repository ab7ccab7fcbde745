"""Where multiply-adds, parameters and time of a network go: by kind of layer, and module by module."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from dicenas.cost.macs import count_modules
from dicenas.ops import Cost, DimConv

__all__ = ["LAYER_KINDS", "LayerCost", "LayerKind", "cost_by_kind", "layer_costs", "layer_kind", "module_times_ms"]

LayerKind: TypeAlias = Literal["standard", "point-wise", "efficient", "linear", "other"]

#: Kinds of layers after DiCENet's Figure 2, in its order: ``standard`` convolutions with kernels above 1x1 over all
#: channels; ``point-wise`` 1x1 ones; ``efficient`` ones, depth-wise, dimension-wise or grouped; ``linear`` layers,
#: 1x1 convolutions of a pooled map among them (the figure leaves them out); ``other``: norms, activations and the rest.
LAYER_KINDS: tuple[LayerKind, ...] = get_args(LayerKind)

_WARM_UP_RUNS = 2


@dataclass(frozen=True)
class LayerCost:
    """What a layer costs.

    Attributes:
        name: Name in the network; empty for the network itself.
        kind: Its kind.
        cost: Multiply-adds of the batch, of all its calls, and parameters.
    """

    name: str
    kind: LayerKind
    cost: Cost


def layer_kind(module: nn.Module, out_shape: tuple[int, ...]) -> LayerKind:
    """Return the kind of a layer.

    Args:
        module: The layer.
        out_shape: Shape of its output, with the batch.
    """
    if isinstance(module, DimConv):
        return "efficient"
    if isinstance(module, nn.Linear):
        return "linear"
    if not isinstance(module, nn.modules.conv._ConvNd):
        return "other"
    is_pointwise = all(size == 1 for size in module.kernel_size)
    if is_pointwise and all(size == 1 for size in out_shape[2:]):
        return "linear"
    if module.groups > 1:
        return "efficient"
    return "point-wise" if is_pointwise else "standard"


def layer_costs(module: nn.Module, input_size: tuple[int, ...], *, batch: int = 1) -> list[LayerCost]:
    """Return what each layer of a network costs; the sums are the network's totals.

    Args:
        module: Any network; one built on the meta device will do.
        input_size: Shape of one input without the batch, such as ``(3, 224, 224)``.
        batch: Images in the forward pass.

    Returns:
        The layers in the order of ``module.named_modules()``, norms and activations among them.

    Raises:
        UncountedModuleError: A module has parameters that no rule of :func:`~dicenas.cost.count_macs` counts.
        ImportError: thop is not installed.
    """
    return [
        LayerCost(
            counted.name,
            layer_kind(counted.module, counted.out_shape),
            Cost(counted.macs, sum(parameter.numel() for parameter in counted.module.parameters())),
        )
        for counted in count_modules(module, input_size, batch=batch)
    ]


def cost_by_kind(layers: Iterable[LayerCost]) -> dict[LayerKind, Cost]:
    """Add up the costs of layers: an entry for each of :data:`LAYER_KINDS`, in their order."""
    costs = dict.fromkeys(LAYER_KINDS, Cost())
    for layer in layers:
        costs[layer.kind] += layer.cost
    return costs


def module_times_ms(network: nn.Module, modules: Iterable[str], x: Tensor, *, repeats: int = 10) -> dict[str, float]:
    """Measure how long modules of a network take within its forward pass: each in its fastest, least disturbed run.

    The clock is read before and behind each module, on CUDA by events, so the network itself runs somewhat slower:
    the times tell where the time goes; how much there is :func:`~dicenas.cost.measure_latency` tells.

    Args:
        network: The network, on the device of ``x``; it runs in evaluation mode and is not changed.
        modules: Names of modules, none within another. Each one's time is that of all its calls in a run.
        x: Input of the forward pass.
        repeats: Number of runs, behind some that are not timed.

    Returns:
        Milliseconds by name, and under the empty name those that the pass takes outside of these modules.
    """
    was_training = [module for module in network.modules() if module.training]
    network.eval()
    watched = {"": network} | {name: network.get_submodule(name) for name in modules}
    runs: list[dict[str, float]] = []
    try:
        with _clocks(watched, x.device) as read, torch.inference_mode():
            for _ in range(_WARM_UP_RUNS + repeats):
                network(x)
                run = read()
                run[""] -= sum(span for name, span in run.items() if name)
                runs.append(run)
    finally:
        for module in was_training:
            module.training = True
    timed = runs[_WARM_UP_RUNS:]
    return {name: min(run[name] for run in timed) for name in watched}


@contextmanager
def _clocks(watched: Mapping[str, nn.Module], device: torch.device) -> Iterator[Callable[[], dict[str, float]]]:
    """Time modules; what is yielded returns the times of the calls since it was last called, and forgets them."""
    started: dict[str, Any] = {}
    spans: list[tuple[str, Any, Any]] = []

    def now() -> Any:
        if device.type != "cuda":
            return time.perf_counter_ns()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
        return event

    def read() -> dict[str, float]:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times = dict.fromkeys(watched, 0.0)
        for name, start, end in spans:
            times[name] += start.elapsed_time(end) if device.type == "cuda" else (end - start) / 1e6
        spans.clear()
        return times

    def watch(name: str, module: nn.Module) -> list[Any]:
        def before(*_: Any) -> None:
            started[name] = now()

        def after(*_: Any) -> None:
            spans.append((name, started[name], now()))

        return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]

    handles = [handle for name, module in watched.items() for handle in watch(name, module)]
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()
