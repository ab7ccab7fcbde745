"""Timing: candidates take turns, so that what disturbs one disturbs all, and ratios are taken round by round."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

# Of glibc, read when a process starts: memory is kept between calls. Else large results are page faults above all,
# and eager PyTorch looks several times slower than it is in a loop of its own.
_ALLOCATION = {
    "MALLOC_TOP_PAD_": "1073741824",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
}
_KEPT_BYTES = 1 << 30


def keep_memory() -> None:
    """Start this program again with glibc's allocation set to keep memory, unless it is; touch what it is to keep."""
    if platform.system() != "Linux":
        return
    if not all(os.environ.get(k) == v for k, v in _ALLOCATION.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **_ALLOCATION})
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    memory = libc.malloc(_KEPT_BYTES)
    if memory:  # results move about in it, and every page is a fault once
        ctypes.memset(memory, 1, _KEPT_BYTES)
        libc.free(memory)


def interleaved(
    candidates: dict[str, Callable[[], object]], seconds: float, device: str = "cpu"
) -> dict[str, list[float]]:
    """Return the times in microseconds of each candidate, one a round: as many rounds as the seconds hold, 5 to 300."""
    for run in candidates.values():
        run()
        run()
    timer = (
        _cuda_timers(candidates) if device == "cuda" else {name: _cpu_timer(run) for name, run in candidates.items()}
    )
    times: dict[str, list[float]] = {name: [] for name in candidates}
    stop = time.perf_counter() + seconds
    for finished in range(300):
        if finished >= 5 and time.perf_counter() >= stop:
            break
        for name, measure in timer.items():
            times[name].append(measure())
    return times


def _cpu_timer(run: Callable[[], object], turn_ms: float = 2) -> Callable[[], float]:
    """Time a turn of one call, of several where they are short: the others have emptied the caches before each turn."""

    def timed(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - start) * 1e6 / calls

    calls = max(1, min(50, round(turn_ms * 1e3 / timed(1))))

    def measure() -> float:
        if calls > 1:
            run()
        return timed(calls)

    return measure


def _cuda_timers(candidates: dict[str, Callable[[], object]], calls: int = 20) -> dict[str, Callable[[], float]]:
    """Events around replays of a graph of ``calls`` calls; the candidates rotate among their buffers themselves."""
    import torch

    def timer(run: Callable[[], object]) -> Callable[[], float]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(calls):
                run()

        def measure() -> float:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) * 1e3 / calls

        return measure

    return {name: timer(run) for name, run in candidates.items()}


def summary(times: dict[str, list[float]]) -> dict[str, float]:
    """Return the median time of each candidate, rounded to 0.1 us."""
    return {name: round(statistics.median(values), 1) for name, values in times.items()}


def ratio(times: dict[str, list[float]], slow: str, fast: str) -> float:
    """Return the median over the rounds of how many times as long ``slow`` took."""
    return round(statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True)), 2)


def machine(device: str, threads: int) -> dict[str, object]:
    """Return what the figures depend on."""
    import torch

    name = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        name = names[0].partition(":")[2].strip() if names else name
    return {
        "type": device,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if device == "cuda" else name,
        "cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        "torch": torch.__version__,
        "load_average": round(os.getloadavg()[0], 1),
    }


def write(path: Path | None, about: dict[str, object], rows: Sequence[dict[str, object]]) -> None:
    """Write the machine and the rows as JSON."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n  ".join(json.dumps(row) for row in rows)
        path.write_text(f'{{"machine": {json.dumps(about)},\n "rows": [\n  {lines}\n]}}\n', encoding="utf-8")
