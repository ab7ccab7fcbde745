"""A search over a made-up table, for tests that kill it: made_up_search.py FOLDER TRIALS WORKERS [STORAGE]."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Mapping

from torch import nn

import dicenas
from dicenas.architecture import Architecture
from dicenas.evaluation import Evaluator, Report
from dicenas.space import SpaceSpec

SPACE = SpaceSpec(
    "shufflenetv2",
    ops=("separable_k3", "separable_k5", "dice_k3", "skip"),
    widths=(0.1, 0.2),
    depths=((1, 2), (1,), (1,)),
    stems=("small",),
    resolutions=(32,),
    num_classes=4,
)


class MadeUp(Evaluator):
    """Looks accuracies up that are drawn from the architecture's hash."""

    trains_network = False

    def __call__(self, architecture: Architecture, net: nn.Module, report: Report) -> Mapping[str, float]:
        time.sleep(0.02)
        return made_up(architecture)


def made_up(architecture: Architecture) -> dict[str, float]:
    digest = hashlib.sha256(architecture.hash.encode()).digest()
    return {"accuracy": digest[0] / 255, "latency_ms": 1 + digest[1] / 255}


if __name__ == "__main__":
    folder, trials, workers, *storage = sys.argv[1:]
    dicenas.search(
        SPACE,
        MadeUp(),
        latency=lambda architecture: made_up(architecture)["latency_ms"],
        trials=int(trials),
        workers=int(workers),
        sampler="random",
        storage=storage[0] if storage else None,
        name="run",
        out=folder,
    )
