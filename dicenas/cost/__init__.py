"""What a network costs: multiply-adds, parameters, memory, latency. Needs torch, and thop for counting."""

from dicenas.cost.breakdown import LAYER_KINDS, KindCost, LayerKind, cost_by_kind, layer_kind, module_times_ms
from dicenas.cost.device import device_name, resolve_device
from dicenas.cost.latency import DTYPES, RUNTIMES, LatencyResult, measure_latency
from dicenas.cost.macs import (
    CountedModule,
    MacsRule,
    UncountedModuleError,
    count_macs,
    count_modules,
    count_params,
    register_macs_rule,
)
from dicenas.cost.memory import peak_memory_mb

__all__ = [
    "DTYPES",
    "LAYER_KINDS",
    "RUNTIMES",
    "CountedModule",
    "KindCost",
    "LatencyResult",
    "LayerKind",
    "MacsRule",
    "UncountedModuleError",
    "cost_by_kind",
    "count_macs",
    "count_modules",
    "count_params",
    "device_name",
    "layer_kind",
    "measure_latency",
    "module_times_ms",
    "peak_memory_mb",
    "register_macs_rule",
    "resolve_device",
]
