"""Which kernels a network or an op runs, and what each of them takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from dicenas.cost.runtimes import LatencySettings, as_runtime, prepare, using_threads

__all__ = ["KernelTime", "kernel_times"]

_WARM_UP_RUNS = 2


@dataclass(frozen=True)
class KernelTime:
    """What a kernel takes in a forward pass of the batch.

    Attributes:
        name: Name of the CUDA kernel; on the CPU that of the operator of torch.
        calls: Calls in one pass.
        time_ms: Milliseconds of all its calls in one pass, without those of the operators that it calls.
    """

    name: str
    calls: float
    time_ms: float


def kernel_times(
    module: nn.Module, input_size: tuple[int, ...], settings: LatencySettings | None = None, *, repeats: int = 10
) -> list[KernelTime]:
    """Measure kernels one by one with ``torch.profiler``: on CUDA each kernel (CUPTI), on the CPU each operator.

    The profiler slows a network of many small operators down, so the times tell where the time goes; how much there is
    :func:`~dicenas.cost.measure_latency` tells.

    Args:
        module: Any module that takes one tensor; it is not changed.
        input_size: Shape of one input without the batch, such as ``(3, 224, 224)``.
        settings: Where and how it runs.
        repeats: Passes that the times are the mean of.

    Returns:
        The kernels, what takes most first.

    Raises:
        ValueError: ``repeats`` is less than 1, or the runtime is onnxruntime, into which the profiler does not see.
    """
    settings = settings or LatencySettings()
    if repeats < 1:
        raise ValueError(f"repeats {repeats} should be at least 1")
    if settings.runtime == "onnxruntime":
        raise ValueError("torch.profiler does not see into onnxruntime; choose another runtime")
    twin, x = prepare(module, input_size, settings)
    on_cuda = x.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with using_threads(settings.threads), as_runtime(twin, settings.runtime, x) as run, torch.inference_mode():
        for _ in range(_WARM_UP_RUNS):
            run(x)
        with profile(activities=activities) as profiler:
            for _ in range(repeats):
                run(x)
            if on_cuda:
                torch.cuda.synchronize(x.device)
    return _kernels(profiler.key_averages(), on_cuda, repeats)


def _kernels(averages: Iterable[Any], on_cuda: bool, repeats: int) -> list[KernelTime]:
    """Return the kernels among the profiler's averages, whose times are in microseconds over all passes."""
    wanted = "CUDA" if on_cuda else "CPU"
    found = []
    for event in averages:
        time_us = event.self_device_time_total if on_cuda else event.self_cpu_time_total
        if event.device_type.name == wanted and not event.is_user_annotation and time_us > 0:
            found.append(KernelTime(event.key, event.count / repeats, time_us / 1e3 / repeats))
    return sorted(found, key=lambda kernel: kernel.time_ms, reverse=True)
