"""What a network costs: multiply-adds, parameters, memory, latency. Needs torch, and thop for counting."""

from dicenas.cost.device import device_name, resolve_device
from dicenas.cost.latency import DTYPES, RUNTIMES, LatencyResult, measure_latency
from dicenas.cost.macs import MacsRule, UncountedModuleError, count_macs, count_params, register_macs_rule
from dicenas.cost.memory import peak_memory_mb

__all__ = [
    "DTYPES",
    "RUNTIMES",
    "LatencyResult",
    "MacsRule",
    "UncountedModuleError",
    "count_macs",
    "count_params",
    "device_name",
    "measure_latency",
    "peak_memory_mb",
    "register_macs_rule",
    "resolve_device",
]
