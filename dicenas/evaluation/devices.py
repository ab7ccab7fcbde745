"""Training on a device: finding it by its name, its half precision, and a network and random numbers on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

__all__ = ["amp_dtype", "checked_device", "mixed_precision", "placed", "random_state"]


def checked_device(device: str | torch.device) -> torch.device:
    """Return a device by its name.

    Raises:
        ValueError: It is not there.
    """
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is not known, expected cpu or cuda") from error
    if target.type == "cuda":
        present = torch.cuda.device_count()
        if (target.index or 0) >= present:
            raise ValueError(f"device {str(device)!r} was asked for, but this machine has {present} CUDA devices")
    return target


def amp_dtype(device: torch.device) -> torch.dtype | None:
    """Precision of the arithmetic beside float32, None where there is none."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def mixed_precision(device: torch.device) -> torch.autocast:
    """Compute in 16 bits within the context where that is what a training on the device does."""
    dtype = amp_dtype(device)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


@contextlib.contextmanager
def placed(net: nn.Module, device: torch.device) -> Iterator[None]:
    """Move a network to a device, and let its weights lie in channels_last order meanwhile.

    Depth-wise convolutions train up to a third faster in that order on the CPU, too. Afterwards the weights
    are contiguous, as files of weights want them.
    """
    net.to(device).to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        net.to(memory_format=torch.contiguous_format)


@contextlib.contextmanager
def random_state(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global random state within the context, and put it back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
