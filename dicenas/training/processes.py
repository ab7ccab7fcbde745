"""The processes of one training: alone, or several that torchrun started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from dicenas.cost.device import resolve_device

__all__ = ["Processes", "joined_processes"]


@dataclass(frozen=True)
class Processes:
    """This process and its place among those that train one network.

    Attributes:
        device: Where this process trains.
        rank: Number of this process, from 0.
        count: Number of processes.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.count == 1:
            return values
        values = values.to(self.device)
        dist.all_reduce(values)
        return values.cpu()

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the first one's values, in place."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.count > 1:
            dist.barrier()


@contextlib.contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started; without torchrun there is this one alone.

    Args:
        device: ``cpu``, ``cuda`` (under torchrun each process takes one of its own), ``cuda:1``, or ``auto``: a
            graphics card where there is one.

    Raises:
        ValueError: The device is not there.
    """
    local_rank, count = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and count > 1:
        device = f"cuda:{local_rank}"
    target = resolve_device(device)
    if count == 1:
        yield Processes(target)
        return
    if target.type == "cuda":
        torch.cuda.set_device(target)
    dist.init_process_group("nccl" if target.type == "cuda" else "gloo")
    try:
        yield Processes(target, dist.get_rank(), count)
    finally:
        dist.destroy_process_group()
