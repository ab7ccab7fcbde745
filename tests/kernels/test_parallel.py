"""Training with the kernels in two processes that share gradients."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from dicenas.ops import DiCE


def _unit() -> DiCE:
    torch.manual_seed(0)
    return DiCE(8, 8, (5, 6)).eval()  # normalises as one process does: with the running statistics


def _train(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = DistributedDataParallel(_unit())
    batches = torch.load(f"{folder}/batches.pt", weights_only=True)
    model(batches[rank]).square().mean().backward()
    if rank == 0:
        gradients = {name: parameter.grad for name, parameter in model.module.named_parameters()}
        torch.save(gradients, f"{folder}/gradients.pt")
    dist.destroy_process_group()


def test_two_processes_get_the_gradients_of_one(tmp_path: Path) -> None:
    batches = torch.randn(2, 4, 8, 5, 6)
    torch.save(batches, tmp_path / "batches.pt")
    mp.spawn(_train, args=(str(tmp_path),), nprocs=2)
    gradients = torch.load(tmp_path / "gradients.pt", weights_only=True)
    unit = _unit()
    unit(batches.flatten(0, 1)).square().mean().backward()
    for name, parameter in unit.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)
