"""Devices by name."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

__all__ = ["device_name", "resolve_device"]


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


def _processor_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()
