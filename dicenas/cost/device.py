"""Devices by name."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

__all__ = ["clock_mhz", "device_name", "driver_version", "last_cache_bytes", "resolve_device"]

_CPUINFO = Path("/proc/cpuinfo")
_CPU_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_USUAL_CACHE_BYTES = 32 * 2**20


def resolve_device(name: str | torch.device) -> torch.device:
    """Return a device that is there.

    Raises:
        ValueError: It is no CPU or CUDA device, or this machine does not have it; the message says what it has.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}; expected cpu, cuda or cuda:<number>") from error
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise ValueError(f"device {name!s} is not supported; expected cpu, cuda or cuda:<number>")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise ValueError(f"device {name!s} is asked for, but torch finds no CUDA device here; use cpu")
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= count:
        raise ValueError(f"device {name!s} is asked for, but there are only {count}: cuda:0 to cuda:{count - 1}")
    return torch.device("cuda", index)


def device_name(device: torch.device) -> str:
    """Return the model of a device: the graphics card, or the processor and the vector instructions torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor_model()} ({torch.backends.cpu.get_cpu_capability()})"


def driver_version(device: torch.device) -> str | None:
    """Return the version of a graphics card's driver; None for the CPU, and where nvidia-ml-py is not installed."""
    return None if device.type == "cpu" else _ask_nvml(lambda pynvml: str(pynvml.nvmlSystemGetDriverVersion()))


def clock_mhz(device: torch.device) -> float | None:
    """Return the clock of a device just now in MHz: of a graphics card's multiprocessors, of the fastest CPU core.

    None where the system or the driver does not say.
    """
    if device.type == "cuda":
        return _ask_nvml(lambda pynvml: float(torch.cuda.clock_rate(device)))
    clocks = [float(value) for value in _cpuinfo("cpu MHz")]
    return max(clocks, default=None)


def last_cache_bytes(device: torch.device) -> int:
    """Return the size of the cache in front of a device's memory: L2 of a graphics card, the last one of a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    texts = [file.read_text(encoding="utf-8").strip() for file in _CPU_CACHES.glob("index*/size")]
    sizes = [int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text) for text in texts if text]
    return max(sizes, default=_USUAL_CACHE_BYTES)


_Answer = TypeVar("_Answer")


def _ask_nvml(question: Callable[[Any], _Answer]) -> _Answer | None:
    """Ask the library of NVIDIA's driver; None where it is not installed, or does not tell on this machine."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return question(pynvml)
    except (pynvml.NVMLError, RuntimeError):
        return None


def _processor_model() -> str:
    return next(iter(_cpuinfo("model name")), None) or platform.processor() or platform.machine()


def _cpuinfo(name: str) -> list[str]:
    """Return what Linux says of each processor under a name; nothing on other systems."""
    if not _CPUINFO.is_file():
        return []
    pairs = (line.partition(":") for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines())
    return [value.strip() for key, _, value in pairs if key.strip() == name and value.strip()]
