"""Costs are measured where torch alone is installed; counting multiply-adds says what it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys

# None in sys.modules makes an import fail.
sys.modules.update(dict.fromkeys(["nni", "numpy", "optuna", "thop", "timm", "torchvision", "tqdm", "yaml"]))

from dicenas.cost import count_macs, count_params, measure_latency, peak_memory_mb
from dicenas.nets import dicenet

net = dicenet(0.1, num_classes=5, image_size=32)
assert measure_latency(net, (3, 32, 32), time_limit_s=0).latency_ms > 0
assert peak_memory_mb(net, (3, 32, 32)) > 0
assert count_params(net) > 0
try:
    count_macs(net, (3, 32, 32))
except ImportError as error:
    print(error)
"""
IMPORTS = "import sys, dicenas.cost; print(*sys.modules)"


def run(program: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_costs_without_optional_libraries() -> None:
    assert run(PROGRAM) == "counting multiply-adds needs thop: pip install 'dicenas[cost]'\n"


def test_importing_costs_loads_no_optional_library() -> None:
    assert {"nni", "optuna", "thop", "timm", "torchvision"}.isdisjoint(run(IMPORTS).split())
