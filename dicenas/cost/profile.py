"""The costs of a network block by block, each split by kind of layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from dicenas.cost.breakdown import LAYER_KINDS, LayerCost, LayerKind, cost_by_kind, layer_costs, module_times_ms
from dicenas.cost.runtimes import LatencySettings, as_runtime, prepare, using_threads
from dicenas.ops import Cost

__all__ = ["BlockProfile", "profile_blocks"]

#: Runtimes in which the modules of a network run one by one.
_TIMED_INSIDE = ("eager", "kernels", "fused")


@dataclass(frozen=True)
class BlockProfile:
    """What a block of a network costs, by kind of layer.

    Attributes:
        name: Name of the module.
        costs: Multiply-adds of one image and parameters.
        time_ms: Milliseconds of a forward pass of the batch, ``other`` being what the layers of the other kinds
            leave. All of it is ``other`` in the fused runtime, where layers of several kinds are one. None in the
            compiled runtime and in onnxruntime.
    """

    name: str
    costs: Mapping[LayerKind, Cost]
    time_ms: Mapping[LayerKind, float] | None

    @property
    def cost(self) -> Cost:
        """All kinds together."""
        return sum(self.costs.values(), Cost())

    @property
    def total_ms(self) -> float:
        """All kinds together; 0 where there are no times."""
        return sum((self.time_ms or {}).values())


def profile_blocks(
    network: nn.Module, blocks: Sequence[str], input_size: tuple[int, ...], settings: LatencySettings
) -> list[BlockProfile]:
    """Profile a network.

    Args:
        network: The network; it is not changed.
        blocks: Names of the modules that it consists of, none within another.
        input_size: Shape of one input without the batch, such as ``(3, 224, 224)``.
        settings: Where and how it is timed.

    Raises:
        UncountedModuleError: A module has parameters that no rule of :func:`~dicenas.cost.count_macs` counts.
        AttributeError: The network has no such module.
    """
    layers = layer_costs(network, input_size)
    inside = {block: [layer for layer in layers if f"{layer.name}.".startswith(f"{block}.")] for block in blocks}
    times: Mapping[str, Mapping[LayerKind, float] | None] = dict.fromkeys(blocks)
    if settings.runtime in _TIMED_INSIDE:
        times = _times(network, inside, input_size, settings)
    return [BlockProfile(block, cost_by_kind(inside[block]), times[block]) for block in blocks]


def _times(
    network: nn.Module,
    inside: Mapping[str, Sequence[LayerCost]],
    input_size: tuple[int, ...],
    settings: LatencySettings,
) -> dict[str, dict[LayerKind, float]]:
    """Time the blocks, and in a pass of its own, which runs slower, their layers."""
    twin, x = prepare(network, input_size, settings)
    timed = {
        block: [layer for layer in layers if layer.kind != "other" and settings.runtime != "fused"]
        for block, layers in inside.items()
    }
    with using_threads(settings.threads), as_runtime(twin, settings.runtime, x) as run:
        assert isinstance(run, nn.Module)
        block_ms = module_times_ms(run, list(inside), x)
        layer_ms = module_times_ms(run, [layer.name for layers in timed.values() for layer in layers], x)
    times = {}
    for block, layers in timed.items():
        spent: dict[LayerKind, float] = dict.fromkeys(LAYER_KINDS, 0.0)
        for layer in layers:
            spent[layer.kind] += layer_ms[layer.name]
        spent["other"] = max(0.0, block_ms[block] - sum(spent.values()))
        times[block] = spent
    return times
