"""DistributedDataParallel with a static graph: two processes over gloo, against the mean of their own gradients."""

from __future__ import annotations

import atexit
import copy
import multiprocessing
import tempfile
import traceback
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.compatibility.compare import ROUNDING, norm, training_step
from tests.compatibility.subjects import SUBJECTS, Subject

PROCESSES = 2


def _check(subject: Subject, rank: int) -> None:
    channels = subject.shape[0]
    # A convolution in front, as in any network: there is no data parallelism of an op without parameters.
    module = nn.Sequential(nn.Conv2d(channels, channels, 1), subject.module())
    batches = subject.input(2 * PROCESSES).chunk(PROCESSES)

    def gradients(x: Tensor) -> dict[str, Tensor]:
        return training_step(copy.deepcopy(module), x).gradients

    own = [gradients(x) for x in batches]
    parallel = DistributedDataParallel(copy.deepcopy(module), static_graph=True)
    for _ in range(2):  # the first step finds the graph, the second one relies on it
        found = training_step(parallel, batches[rank]).gradients
        largest = max(norm(g) for g in own[0].values())
        for name in own[0].keys() - {"of the input"}:
            expected = torch.stack([each[name] for each in own]).mean(0)
            error = norm(found[f"module.{name}"] - expected) / max(norm(expected), 0.01 * largest)
            assert error <= ROUNDING, f"the gradient of {name} differs by {error:.2g} of its size"


def _work(rank: int, rendezvous: str, connection: Connection) -> None:
    """Check subjects by name, and send back what went wrong."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=PROCESSES)
    while (name := connection.recv()) is not None:
        try:
            torch.manual_seed(0)
            _check(SUBJECTS[name], rank)
            connection.send("")
        except Exception:  # noqa: BLE001 - the parent process raises it
            connection.send(traceback.format_exc())
    dist.destroy_process_group()


@cache
def _processes() -> list[Connection]:
    """Start the processes, once."""
    context = multiprocessing.get_context("spawn")
    folder = tempfile.TemporaryDirectory(prefix="dicenas-gloo-")
    connections, processes = [], []
    for rank in range(PROCESSES):
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(rank, str(Path(folder.name) / "store"), there), daemon=True)
        process.start()
        there.close()  # so that the end of the process is seen here
        connections.append(here)
        processes.append(process)

    def stop() -> None:
        for connection, process in zip(connections, processes, strict=True):
            if process.is_alive():
                connection.send(None)
            process.join()
        folder.cleanup()

    atexit.register(stop)
    return connections


def is_data_parallel(subject: Subject) -> None:
    """Each process has the mean of the gradients of both halves of a batch, in two steps."""
    name = next(name for name, each in SUBJECTS.items() if each is subject)
    connections = _processes()
    for connection in connections:
        connection.send(name)
    for problem in [connection.recv() for connection in connections]:
        assert not problem, problem
