"""Run folders for tests: real architectures, numbers from closed forms."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from dicenas.runs import RunFolder, TrialRecord
from dicenas.space import SpaceSpec

SPACE = {
    "backbone": "shufflenetv2",
    "ops": ["separable", "separable_se", "dice", "skip"],
    "widths": [0.5, 0.75, 1.0],
    "depths": [[1, 2], [1, 3], [1, 2]],
    "stem": "small",
}


def _write_run(
    path: Path,
    objectives: Mapping[str, str],
    complete: int = 24,
    failed: int = 0,
    *,
    name: str = "quickstart",
    error: str = "training diverged: loss is nan in epoch 2",
    space: Mapping[str, Any] = SPACE,
) -> RunFolder:
    """Write the folder of a search over ``space``; accuracy grows with the logarithm of the parameters."""
    run = RunFolder(path)
    path.mkdir(parents=True)
    config = {
        "name": name,
        "space": dict(space),
        "data": {"dataset": "digits", "image_size": 32},
        "evaluator": {"kind": "train", "epochs": 3, "batch": 64},
        "objectives": dict(objectives),
        "constraints": {"macs": 60.0e6},
        "latency": {"device": "cpu", "input_size": 224, "batch": 1, "runtime": "kernels", "threads": 1},
        "search": {"sampler": "nsga2", "trials": complete + failed, "seed": 0},
        "export": {"trial": "best", "formats": ["py", "safetensors"]},
    }
    run.config_path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    environment = {
        "started": "2025-01-02T03:04:05+00:00",
        "finished": "2025-01-02T03:08:35+00:00",
        "seconds": 270.0,
        "dicenas": "0.1.0",
        "torch": "2.15.0",
        "python": "3.11.9",
        "platform": "Linux-6.1-x86_64",
        "device_name": "Example CPU @ 2.00 GHz",
        "cuda_device_name": None,
        "threads": 8,
    }
    run.environment_path.write_text(json.dumps(environment), encoding="utf-8")
    spec = SpaceSpec.from_config(space, num_classes=10, image_size=32)
    rng = Random(0)
    for number in range(complete + failed):
        architecture = spec.random(rng)
        if number >= complete:
            run.write_trial(TrialRecord(number, architecture, "failed", error=error))
            continue
        cost = spec.cost(architecture.at_size(224))
        ops = [op for stage in architecture.stages for op in stage]
        dices = sum(op.startswith("dice") for op in ops)
        latency = 1.5 + cost.macs / 9e6 + 0.8 * dices + 0.2 * len(ops)
        metrics = {
            "accuracy": 0.90 + 0.012 * math.log(cost.params / 2e5) + 0.008 * dices - 0.004 * ops.count("skip"),
            "loss": 0.3,
            "train_seconds": 8.0,
            "latency_ms": latency,
            "latency_p25_ms": 0.98 * latency,
            "latency_p75_ms": 1.03 * latency,
            "latency_eager_ms": 1.9 * latency,
            "macs": float(cost.macs),
            "params": float(cost.params),
            "peak_memory_mb": 4.0 + cost.params / 1e6,
        }
        run.write_trial(TrialRecord(number, architecture, "complete", metrics))
    return run


@pytest.fixture(scope="session")
def write_run() -> Callable[..., RunFolder]:
    """Writes the folder of a search; see :func:`_write_run`."""
    return _write_run
