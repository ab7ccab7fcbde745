"""Latency of the tabular benchmark's architectures: they take turns, so that what disturbs one disturbs all."""

from __future__ import annotations

import json
import logging
import os
import platform
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import nn

from dicenas import Architecture, build, fuse_for_inference
from dicenas.cost import device_name
from dicenas.evaluation.tabular import SCHEMA_VERSION
from dicenas.files import atomic_write_text
from dicenas.nets import architecture_cost
from dicenas.ops import kernels

from .table import SPACE, architectures

__all__ = ["RUNTIMES", "SIZES", "deployed", "measure", "run"]

logger = logging.getLogger(__name__)

#: Ways to run a network, as :data:`dicenas.cost.RUNTIMES` has them.
RUNTIMES = ("eager", "kernels", "fused")
#: Sizes of images: those that a network was trained on, and those of its deployment, see :func:`deployed`.
SIZES = ("native", "deployed")
_LARGEST_DEPLOYED = 224


def deployed(architecture: Architecture) -> Architecture:
    """Return the network as it would be deployed: the larger resolution of the space at 224 pixels, others in scale."""
    return architecture.at_size(_LARGEST_DEPLOYED * architecture.image_size[0] // max(SPACE.resolutions))


def run(
    path: Path,
    sizes: Sequence[str] | None = None,
    runtimes: Sequence[str] | None = None,
    rounds: int = 30,
    limit: int | None = None,
) -> int:
    """Measure and write one file: one thread, batches of one image.

    Args:
        path: The file.
        sizes: Of :data:`SIZES`; both where it is None.
        runtimes: Of :data:`RUNTIMES`; all where it is None.
        rounds: Timed runs of each network.
        limit: Measures the first architectures alone.

    Returns:
        0, the exit status.
    """
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    if load > 0.5:
        logger.warning("the machine is busy (load average %.1f): the figures will be noisy", load)
    chosen = architectures()[:limit]
    rows: list[dict[str, Any]] = [
        {"architecture": a.hash, "sample": SPACE.sample(a), "latency_ms": {}, "quartiles_ms": {}, "macs": {}}
        for a in chosen
    ]
    for size in sizes or SIZES:
        resized = [deployed(a) for a in chosen] if size == "deployed" else chosen
        for row, architecture in zip(rows, resized, strict=True):
            row["macs"][size] = architecture_cost(architecture).macs
        for runtime in runtimes or RUNTIMES:
            started = time.perf_counter()
            for row, times in zip(rows, measure(resized, runtime, rounds), strict=True):
                low, median, high = statistics.quantiles(times, n=4)
                row["latency_ms"][f"{runtime}_{size}"] = round(median, 4)
                row["quartiles_ms"][f"{runtime}_{size}"] = [round(low, 4), round(high, 4)]
            logger.info("%s, %s: %.0f s", runtime, size, time.perf_counter() - started)
    head = {
        "schema_version": SCHEMA_VERSION,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device_name(torch.device("cpu")),
        "threads": 1,
        "batch": 1,
        "rounds": rounds,
        "torch": torch.__version__,
        "platform": platform.platform(),
        "kernels": kernels.available("cpu"),
        "load_average": round(load, 1),
    }
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    atomic_write_text(path, json.dumps(head)[:-1] + f', "rows": [\n  {lines}\n]}}\n')
    return 0


def measure(chosen: Sequence[Architecture], runtime: str, rounds: int) -> list[list[float]]:
    """Return the times of one forward pass in milliseconds, one a round, of each architecture.

    Each round takes the networks in an order of its own. A run that is not timed goes before each that is: the caches
    hold what they would hold if the network ran alone.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"unknown runtime {runtime!r}; expected one of {', '.join(RUNTIMES)}")
    torch.manual_seed(0)
    nets = [_prepared(architecture, runtime) for architecture in chosen]
    images = [torch.randn(1, a.in_channels, *a.image_size) for a in chosen]
    times: list[list[float]] = [[] for _ in nets]
    turn = list(range(len(nets)))
    rng = Random(0)
    with torch.inference_mode(), kernels.disabled() if runtime == "eager" else nullcontext():
        for net, x in zip(nets, images, strict=True):
            net(x)
        for _ in range(rounds):
            rng.shuffle(turn)
            for number in turn:
                net, x = nets[number], images[number]
                net(x)
                start = time.perf_counter_ns()
                net(x)
                times[number].append((time.perf_counter_ns() - start) / 1e6)
    return times


def _prepared(architecture: Architecture, runtime: str) -> nn.Module:
    net = build(architecture).eval()
    return fuse_for_inference(net) if runtime == "fused" else net
