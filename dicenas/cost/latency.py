"""Latency of a network, measured on the device that is asked for."""

from __future__ import annotations

import copy
import datetime
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from dicenas.cost.device import device_name, resolve_device
from dicenas.nets import fuse_for_inference
from dicenas.ops import kernels
from dicenas.spelling import did_you_mean

__all__ = ["DTYPES", "RUNTIMES", "LatencyResult", "measure_latency", "summarize"]

#: Number types by name.
DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
#: Ways to run a network: ``eager`` without native kernels, ``kernels`` with those that are loaded, ``fused`` by
#: :func:`dicenas.fuse_for_inference`, ``compiled`` by ``torch.compile``.
RUNTIMES = ("eager", "kernels", "fused", "compiled")

Verdict: TypeAlias = Literal["ok", "noisy"]
#: Runs the network once and returns the milliseconds that it took.
_Timer: TypeAlias = Callable[[], float]

_WARM_UP_RUNS = 3
_LEAST_REPEATS = 10
_ACCEPTED_INTERVAL = 0.03  # width of the median's 95 % interval, as a share of the median


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
    method: Literal["clock", "graph", "events"]
    dtype: str
    batch: int
    input_size: tuple[int, ...]
    memory_format: str
    threads: int
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
    time_limit_s: float = 0.5,
) -> LatencyResult:
    """Measure how long a forward pass takes, in evaluation mode and without gradients.

    Runs repeat until the median is known to 3 % or the time limit is over, ten times at least. On CUDA the times are
    taken by events around replays of a CUDA graph, so that launch overhead is not part of them.

    Args:
        module: Any module that takes one tensor; it is not changed.
        input_size: Shape of one input without the batch, such as ``(3, 224, 224)``.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        batch: Images in the batch.
        dtype: One of :data:`DTYPES`.
        threads: CPU threads while measuring; those set in torch where it is None.
        runtime: One of :data:`RUNTIMES`.
        time_limit_s: Limit of the timed runs together, in seconds; warm-up and compilation come on top.

    Raises:
        ValueError: A device that is not there, or an unknown dtype, runtime, batch, number of threads or time limit.
    """
    target = resolve_device(device)
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}{did_you_mean(dtype, DTYPES)} ({', '.join(DTYPES)})")
    if runtime not in RUNTIMES:
        raise ValueError(f"unknown runtime {runtime!r}{did_you_mean(runtime, RUNTIMES)} ({', '.join(RUNTIMES)})")
    if batch < 1 or (threads is not None and threads < 1):
        raise ValueError(f"batch {batch} and threads {threads} should be at least 1")
    if not time_limit_s >= 0:
        raise ValueError(f"time_limit_s {time_limit_s} should be a number of seconds, at least 0")
    twin = copy.deepcopy(module).eval().to(target, DTYPES[dtype])
    x = torch.randn(batch, *input_size, generator=torch.Generator().manual_seed(0)).to(target, DTYPES[dtype])
    with _threads(threads) as used_threads, _runtime(twin, runtime) as run, torch.inference_mode():
        timer, method = _cpu_timer(run, x) if target.type == "cpu" else _cuda_timer(run, x)
        times_ms = _repeat(timer, time_limit_s)
    return LatencyResult(
        **summarize(times_ms),
        device=str(target),
        device_name=device_name(target),
        runtime=runtime,
        method=method,
        dtype=dtype,
        batch=batch,
        input_size=tuple(input_size),
        memory_format="contiguous",
        threads=used_threads,
        torch_version=torch.__version__,
        python_version=platform.python_version(),
        platform=platform.platform(),
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def summarize(times_ms: Sequence[float]) -> dict[str, Any]:
    """Return the statistics of :class:`LatencyResult` for measured times.

    The interval of the median is distribution-free: order statistics around the middle.
    """
    ordered = sorted(times_ms)
    low, high = _median_interval(ordered)
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


def _repeat(timer: _Timer, time_limit_s: float, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Take times until their median is known well enough or the time is over."""
    times_ms: list[float] = []
    start = clock()
    while True:
        times_ms.append(timer())
        if len(times_ms) < _LEAST_REPEATS:
            continue
        if clock() - start >= time_limit_s or summarize(times_ms)["verdict"] == "ok":
            return times_ms


def _median_interval(ordered: Sequence[float]) -> tuple[float, float]:
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


def _cpu_timer(run: Callable[[Tensor], Any], x: Tensor) -> tuple[_Timer, Literal["clock"]]:
    for _ in range(_WARM_UP_RUNS):
        run(x)

    def timer() -> float:
        start = time.perf_counter_ns()
        run(x)
        return (time.perf_counter_ns() - start) / 1e6

    return timer, "clock"


def _cuda_timer(run: Callable[[Tensor], Any], x: Tensor) -> tuple[_Timer, Literal["graph", "events"]]:
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
            start.record()
            once()
            end.record()
            end.synchronize()
            return start.elapsed_time(end)

    return timer, "events" if graph is None else "graph"


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


@contextmanager
def _runtime(module: nn.Module, runtime: str) -> Iterator[Callable[[Tensor], Any]]:
    if runtime == "eager":
        with kernels.disabled():
            yield module
    elif runtime == "fused":
        yield fuse_for_inference(module)
    elif runtime == "compiled":
        # torch keeps what it compiled by the code of forward(), which all networks share: from the second on it would
        # take sizes that changed for dynamic, and after the eighth run the next one uncompiled.
        torch.compiler.reset()
        yield torch.compile(module)
    else:
        yield module


@contextmanager
def _threads(threads: int | None) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
