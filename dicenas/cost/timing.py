"""Taking times: one run of a callable, repeated until the median is known, and what the times say."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from dicenas.cost.device import last_cache_bytes

__all__ = [
    "Method",
    "Timer",
    "Verdict",
    "cache_flush",
    "cpu_timer",
    "cuda_timer",
    "launch_timer",
    "median_interval",
    "repeat",
    "summarize",
]

Verdict: TypeAlias = Literal["ok", "noisy"]
Method: TypeAlias = Literal["clock", "graph", "events"]
#: Runs something once and returns the milliseconds that it took.
Timer: TypeAlias = Callable[[], float]

_WARM_UP_RUNS = 3
_LEAST_REPEATS = 10
_ACCEPTED_INTERVAL = 0.03  # width of the median's 95 % interval, as a share of the median


def summarize(times_ms: Sequence[float]) -> dict[str, Any]:
    """Return the statistics of :class:`~dicenas.cost.LatencyResult` for measured times.

    The interval of the median is distribution-free: order statistics around the middle.
    """
    ordered = sorted(times_ms)
    low, high = median_interval(ordered)
    median = statistics.median(ordered)
    return {
        "latency_ms": median,
        "p25_ms": _quantile(ordered, 0.25),
        "p75_ms": _quantile(ordered, 0.75),
        "p90_ms": _quantile(ordered, 0.9),
        "min_ms": ordered[0],
        "interval_ms": (low, high),
        "repeats": len(ordered),
        "verdict": "ok" if high - low <= _ACCEPTED_INTERVAL * median else "noisy",
    }


def repeat(timer: Timer, time_limit_s: float, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Take times until their median is known well enough or the time is over, ten at least."""
    times_ms: list[float] = []
    start = clock()
    while True:
        times_ms.append(timer())
        if len(times_ms) < _LEAST_REPEATS:
            continue
        if clock() - start >= time_limit_s or summarize(times_ms)["verdict"] == "ok":
            return times_ms


def median_interval(ordered: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median of sorted values."""
    # Ranks that the median lies between with a probability of 95 %: binomial, in its normal approximation.
    spread = 0.98 * math.sqrt(len(ordered))
    middle = (len(ordered) - 1) / 2
    low, high = math.floor(middle - spread), math.ceil(middle + spread)
    return ordered[max(low, 0)], ordered[min(high, len(ordered) - 1)]


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def cache_flush(device: torch.device) -> Callable[[], object]:
    """Return what drives everything else out of a device's caches: it writes a buffer larger than the last of them."""
    buffer = torch.zeros(2 * last_cache_bytes(device), dtype=torch.uint8, device=device)
    return lambda: buffer.add_(1)


def _nothing() -> None:
    pass


def cpu_timer(run: Callable[[Tensor], Any], x: Tensor, before: Callable[[], object] = _nothing) -> tuple[Timer, Method]:
    """Return a timer by the clock, for work that is done when the call returns.

    Args:
        run: What is timed.
        x: Its input.
        before: Called before each timed run, untimed.
    """
    for _ in range(_WARM_UP_RUNS):
        run(x)

    def timer() -> float:
        before()
        start = time.perf_counter_ns()
        run(x)
        return (time.perf_counter_ns() - start) / 1e6

    return timer, "clock"


def cuda_timer(
    run: Callable[[Tensor], Any], x: Tensor, before: Callable[[], object] = _nothing
) -> tuple[Timer, Method]:
    """Return a timer by events around replays of a CUDA graph, or around launches where a run cannot be captured.

    Args:
        run: What is timed.
        x: Its input.
        before: Enqueued before each timed run, untimed.
    """
    with torch.cuda.device(x.device):
        # A stream of its own, as capture asks for, and of this device; libraries allocate workspaces in the warm-up.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_RUNS):
                run(x)
            graph = None if _synchronizes(run, x) else _captured(run, x, stream)
        torch.cuda.current_stream().wait_stream(stream)

    def once() -> None:
        if graph is None:
            run(x)
        else:
            graph.replay()

    def timer() -> float:
        with torch.cuda.device(x.device):
            start = torch.cuda.Event(enable_timing=True)
            end = torch.cuda.Event(enable_timing=True)
            once()  # keeps the device busy until the host has enqueued the run that is timed
            before()
            start.record()
            once()
            end.record()
            end.synchronize()
            return start.elapsed_time(end)

    return timer, "events" if graph is None else "graph"


def launch_timer(run: Callable[[Tensor], Any], x: Tensor) -> Timer:
    """Return a timer of a run whose kernels the host launches one by one to an idle CUDA device."""

    def timer() -> float:
        with torch.cuda.device(x.device):
            start = torch.cuda.Event(enable_timing=True)
            end = torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            start.record()
            run(x)
            end.record()
            end.synchronize()
            return start.elapsed_time(end)

    return timer


def _synchronizes(run: Callable[[Tensor], Any], x: Tensor) -> bool:
    """Whether a network waits for the device, as ``item()`` does: trying to capture it would harm torch's state."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(x)
    except RuntimeError:
        return True
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    return False


def _captured(run: Callable[[Tensor], Any], x: Tensor, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph | None:
    """Capture a run; None where something in it cannot be captured."""
    graph = torch.cuda.CUDAGraph()
    try:
        # Threads that load data meanwhile are no part of it.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            run(x)
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    return graph
