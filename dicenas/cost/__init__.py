"""What a network costs: multiply-adds, parameters, memory, latency. Needs torch, and thop for counting."""

from dicenas.cost.breakdown import (
    LAYER_KINDS,
    LayerCost,
    LayerKind,
    cost_by_kind,
    layer_costs,
    layer_kind,
    module_times_ms,
)
from dicenas.cost.candidates import CandidateProfile, build_for_profile, candidate_fits, profile_candidate
from dicenas.cost.device import clock_mhz, device_name, driver_version, resolve_device
from dicenas.cost.kernel_view import KernelTime, kernel_times
from dicenas.cost.latency import Comparison, LatencyResult, compare_latency, measure_interleaved, measure_latency
from dicenas.cost.macs import (
    CountedModule,
    MacsRule,
    UncountedModuleError,
    count_macs,
    count_modules,
    count_params,
    register_macs_rule,
)
from dicenas.cost.memory import network_peak_memory_mb, peak_memory_mb
from dicenas.cost.profile import BlockProfile, profile_blocks
from dicenas.cost.receptive_field import ReceptiveField, receptive_field
from dicenas.cost.runtimes import DTYPES, MEMORY_FORMATS, RUNTIMES, LatencySettings

__all__ = [
    "DTYPES",
    "LAYER_KINDS",
    "MEMORY_FORMATS",
    "RUNTIMES",
    "BlockProfile",
    "CandidateProfile",
    "Comparison",
    "CountedModule",
    "KernelTime",
    "LatencyResult",
    "LatencySettings",
    "LayerCost",
    "LayerKind",
    "MacsRule",
    "ReceptiveField",
    "UncountedModuleError",
    "build_for_profile",
    "candidate_fits",
    "clock_mhz",
    "compare_latency",
    "cost_by_kind",
    "count_macs",
    "count_modules",
    "count_params",
    "device_name",
    "driver_version",
    "kernel_times",
    "layer_costs",
    "layer_kind",
    "measure_interleaved",
    "measure_latency",
    "module_times_ms",
    "network_peak_memory_mb",
    "peak_memory_mb",
    "profile_blocks",
    "profile_candidate",
    "receptive_field",
    "register_macs_rule",
    "resolve_device",
]
