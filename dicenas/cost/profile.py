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
        time_ms: Milliseconds of a forward pass of the batch; None in the runtimes that do not run block by block,
            ``compiled`` and ``onnxruntime``.
        times_ms: The same by kind, ``other`` being what the layers of the other kinds leave; None in the fused
            runtime too, where layers of several kinds are one.
    """

    name: str
    costs: Mapping[LayerKind, Cost]
    time_ms: float | None = None
    times_ms: Mapping[LayerKind, float] | None = None

    @property
    def cost(self) -> Cost:
        """All kinds together."""
        return sum(self.costs.values(), Cost())


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
    if settings.runtime not in _TIMED_INSIDE:
        return [BlockProfile(block, cost_by_kind(inside[block])) for block in blocks]
    twin, x = prepare(network, input_size, settings)
    with using_threads(settings.threads), as_runtime(twin, settings.runtime, x) as run:
        assert isinstance(run, nn.Module)
        block_ms = module_times_ms(run, blocks, x)
        if settings.runtime == "fused":
            return [BlockProfile(block, cost_by_kind(inside[block]), block_ms[block]) for block in blocks]
        # In a pass of its own, which runs slower.
        convolving = [layer for block in blocks for layer in inside[block] if layer.kind != "other"]
        layer_ms = module_times_ms(run, [layer.name for layer in convolving], x)
    return [_profile(block, inside[block], block_ms[block], layer_ms) for block in blocks]


def _profile(block: str, layers: Sequence[LayerCost], time_ms: float, layer_ms: Mapping[str, float]) -> BlockProfile:
    """Split the time of a block by kind of layer."""
    times_ms: dict[LayerKind, float] = dict.fromkeys(LAYER_KINDS, 0.0)
    for layer in layers:
        times_ms[layer.kind] += layer_ms.get(layer.name, 0.0)
    times_ms["other"] = max(0.0, time_ms - sum(times_ms.values()))
    return BlockProfile(block, cost_by_kind(layers), time_ms, times_ms)
