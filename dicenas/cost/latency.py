"""Latency of networks, measured on the device that is asked for: one by itself, or several that take turns."""

from __future__ import annotations

import dataclasses
import datetime
import platform
import random
import statistics
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from dicenas.cost.device import clock_mhz, device_name, driver_version, resolve_device
from dicenas.cost.runtimes import LatencySettings, as_runtime, prepare, using_threads
from dicenas.cost.timing import (
    Method,
    Timer,
    Verdict,
    cache_flush,
    cpu_timer,
    cuda_timer,
    launch_timer,
    median_interval,
    repeat,
    summarize,
)

__all__ = [
    "Comparison",
    "LatencyResult",
    "compare_latency",
    "measure_interleaved",
    "measure_latency",
]


@dataclass(frozen=True)
class LatencyResult:
    """A measured latency and what it was measured on; times are of one forward pass of the whole batch.

    Attributes:
        latency_ms: Median.
        p25_ms: First quartile.
        p75_ms: Third quartile.
        p90_ms: 90th percentile.
        min_ms: Fastest run.
        interval_ms: 95 % confidence interval of the median.
        repeats: Number of timed runs.
        verdict: ``"noisy"`` where the interval is wider than 3 % of the median.
        device: Device, such as ``"cpu"`` or ``"cuda:0"``.
        device_name: Model of the device.
        runtime: One of :data:`RUNTIMES`.
        method: ``"clock"`` on the CPU; on CUDA ``"graph"`` for events around graph replays, or ``"events"`` around
            launches where the network cannot be captured.
        dtype: Number type of weights and activations.
        batch: Images in the batch.
        input_size: Shape of one input without the batch.
        memory_format: Layout of the tensors.
        threads: CPU threads.
        cold: Whether the caches were flushed before every run.
        launch_overhead_ms: What a run takes longer than ``latency_ms`` when its kernels are launched one by one to an
            idle device; None where no CUDA graph was timed.
        clock_mhz: Clock of the device right behind the runs, see :func:`~dicenas.cost.clock_mhz`; None where it cannot
            be read.
        driver_version: Driver of the graphics card; None for the CPU and where it cannot be read.
        torch_version: Version of torch.
        python_version: Version of Python.
        platform: Operating system.
        measured_at: When, in UTC.
    """

    latency_ms: float
    p25_ms: float
    p75_ms: float
    p90_ms: float
    min_ms: float
    interval_ms: tuple[float, float]
    repeats: int
    verdict: Verdict
    device: str
    device_name: str
    runtime: str
    method: Method
    dtype: str
    batch: int
    input_size: tuple[int, ...]
    memory_format: str
    threads: int
    cold: bool
    launch_overhead_ms: float | None
    clock_mhz: float | None
    driver_version: str | None
    torch_version: str
    python_version: str
    platform: str
    measured_at: str

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data."""
        return asdict(self)


def measure_latency(
    module: nn.Module,
    input_size: tuple[int, ...],
    *,
    device: str | torch.device = "cpu",
    batch: int = 1,
    dtype: str = "float32",
    threads: int | None = None,
    runtime: str = "kernels",
    memory_format: str = "contiguous",
    cold: bool = False,
    time_limit_s: float = 0.5,
) -> LatencyResult:
    """Measure how long a forward pass takes, in evaluation mode and without gradients.

    Runs repeat until the median is known to 3 % or the time limit is over, ten times at least. On CUDA the times are
    taken by events around replays of a CUDA graph, so that launch overhead is not part of them; it is reported apart.

    Args:
        module: Any module that takes one tensor; it is not changed.
        input_size: Shape of one input without the batch, such as ``(3, 224, 224)``.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        batch: Images in the batch.
        dtype: One of :data:`~dicenas.cost.DTYPES`.
        threads: CPU threads while measuring; those set in torch where it is None.
        runtime: One of :data:`~dicenas.cost.RUNTIMES`.
        memory_format: One of :data:`~dicenas.cost.MEMORY_FORMATS`.
        cold: Flush the device's caches before every run, so that weights and input come from memory.
        time_limit_s: Limit of the timed runs together, in seconds; warm-up and compilation come on top.

    Raises:
        ValueError: A device that is not there, or an unknown dtype, runtime, batch, number of threads or time limit.
    """
    settings = LatencySettings(str(device), batch, dtype, threads, runtime, memory_format)
    _check_time_limit(time_limit_s)
    with ExitStack() as stack:
        run, x = _ready(stack, module, input_size, settings)
        before = [cache_flush(x.device)] if cold else []
        timer, method = (cpu_timer if x.device.type == "cpu" else cuda_timer)(run, x, *before)
        result = dataclasses.replace(_result(repeat(timer, time_limit_s), method, input_size, settings), cold=cold)
        if method == "graph" and not cold:
            launched_ms = summarize(repeat(launch_timer(run, x), 0))["latency_ms"]
            result = dataclasses.replace(result, launch_overhead_ms=launched_ms - result.latency_ms)
        return result


def measure_interleaved(
    modules: Mapping[str, nn.Module],
    input_size: tuple[int, ...],
    settings: LatencySettings,
    *,
    rounds: int = 20,
    seed: int = 0,
    on_round: Callable[[], object] | None = None,
) -> dict[str, LatencyResult]:
    """Measure several modules that take turns, so that a machine that slows down slows all of them down.

    Args:
        modules: The modules by name; they are not changed.
        input_size: Shape of one input without the batch; the same for all.
        settings: Under what they are measured.
        rounds: How often each of them is timed, in an order that is drawn anew in every round.
        seed: Of that order.
        on_round: Called after every round, to show progress.

    Raises:
        ValueError: No module, fewer than two rounds, or the ``compiled`` runtime, of which torch holds one at a time.
    """
    times_ms, methods = _interleaved(modules, input_size, settings, rounds, seed, on_round)
    return {name: _result(times_ms[name], methods[name], input_size, settings) for name in modules}


ComparisonVerdict: TypeAlias = Literal["faster", "slower", "indistinguishable"]


@dataclass(frozen=True)
class Comparison:
    """Two modules measured in turns.

    Attributes:
        first: Latency of the first.
        second: Latency of the second.
        ratio: Median over the rounds of the first's time divided by the second's in the same round.
        ratio_interval: 95 % confidence interval of that median.
        verdict: What the first is, ``"indistinguishable"`` where the interval holds 1.
    """

    first: LatencyResult
    second: LatencyResult
    ratio: float
    ratio_interval: tuple[float, float]

    @property
    def verdict(self) -> ComparisonVerdict:
        """Whether the first is faster or slower than the second, or no difference was seen."""
        low, high = self.ratio_interval
        if low <= 1 <= high:
            return "indistinguishable"
        return "faster" if high < 1 else "slower"


def compare_latency(
    first: nn.Module,
    second: nn.Module,
    input_size: tuple[int, ...],
    settings: LatencySettings | None = None,
    *,
    rounds: int = 40,
) -> Comparison:
    """Compare two modules by runs in turns: ratios within a round cancel what slows both of them down.

    Args:
        first: One module.
        second: The other.
        input_size: Shape of one input without the batch; the same for both.
        settings: Under what they are measured.
        rounds: How often each is timed.

    Raises:
        ValueError: As :func:`measure_interleaved`.
    """
    settings = settings or LatencySettings()
    times_ms, methods = _interleaved({"first": first, "second": second}, input_size, settings, rounds, seed=0)
    ratios = sorted(a / b for a, b in zip(times_ms["first"], times_ms["second"], strict=True))
    results = {name: _result(times_ms[name], methods[name], input_size, settings) for name in times_ms}
    return Comparison(results["first"], results["second"], statistics.median(ratios), median_interval(ratios))


def _interleaved(
    modules: Mapping[str, nn.Module],
    input_size: tuple[int, ...],
    settings: LatencySettings,
    rounds: int,
    seed: int,
    on_round: Callable[[], object] | None = None,
) -> tuple[dict[str, list[float]], dict[str, Method]]:
    """Return the times of each module, round by round, and how they were taken."""
    if not modules or rounds < 2:
        raise ValueError(f"{len(modules)} modules, {rounds} rounds: there should be at least one module and two rounds")
    if settings.runtime == "compiled":
        raise ValueError("compiled networks cannot take turns: torch keeps one of them at a time")
    names = list(modules)
    order = random.Random(seed)
    with ExitStack() as stack:
        timers = {name: _timer(stack, module, input_size, settings) for name, module in modules.items()}
        times_ms: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in order.sample(names, len(names)):
                times_ms[name].append(timers[name][0]())
            if on_round is not None:
                on_round()
    return times_ms, {name: method for name, (_, method) in timers.items()}


def _timer(
    stack: ExitStack, module: nn.Module, input_size: tuple[int, ...], settings: LatencySettings
) -> tuple[Timer, Method]:
    """Make a module ready to be timed for as long as the stack is open."""
    run, x = _ready(stack, module, input_size, settings)
    return (cpu_timer if x.device.type == "cpu" else cuda_timer)(run, x)


def _ready(
    stack: ExitStack, module: nn.Module, input_size: tuple[int, ...], settings: LatencySettings
) -> tuple[Callable[[Tensor], Any], Tensor]:
    """Make a module ready to be run for as long as the stack is open."""
    twin, x = prepare(module, input_size, settings)
    stack.enter_context(using_threads(settings.threads))
    run = stack.enter_context(as_runtime(twin, settings.runtime, x))
    stack.enter_context(torch.inference_mode())
    return run, x


def _result(
    times_ms: list[float], method: Method, input_size: tuple[int, ...], settings: LatencySettings
) -> LatencyResult:
    device = resolve_device(settings.device)
    return LatencyResult(
        **summarize(times_ms),
        device=str(device),
        device_name=device_name(device),
        runtime=settings.runtime,
        method=method,
        dtype=settings.dtype,
        batch=settings.batch,
        input_size=tuple(input_size),
        memory_format=settings.memory_format,
        threads=settings.threads or torch.get_num_threads(),
        cold=False,
        launch_overhead_ms=None,
        clock_mhz=clock_mhz(device),
        driver_version=driver_version(device),
        torch_version=torch.__version__,
        python_version=platform.python_version(),
        platform=platform.platform(),
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _check_time_limit(time_limit_s: float) -> None:
    if not time_limit_s >= 0:
        raise ValueError(f"time_limit_s {time_limit_s} should be a number of seconds, at least 0")
