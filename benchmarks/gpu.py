"""All that needs a GPU, in one command: builds the kernels, tests them, measures them and whole networks.

    python benchmarks/gpu.py --minutes 8 --out gpu_results

It runs from a checkout with torch, torchvision and pytest; NNI, Optuna and thop are not needed. What is measured is in
JSON files as benchmarks/kernels.py, networks.py and latency.py write them, fit for benchmarks/results/, and a picture
where matplotlib is installed; `summary.json` tells what became of each step and is there from the first one on. A step
that fails or runs out of time does not keep the next ones from running, and the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE_5 = ("dicenet_2.4", "shufflenet_v2_x1_5", "mobilenet_v2", "mobilenet_v3_large")


@dataclass(frozen=True)
class Step:
    """A command, and how long it may take at most."""

    name: str
    command: tuple[str, ...]
    minutes: float


@dataclass(frozen=True)
class Outcome:
    """What became of a step."""

    name: str
    command: str
    state: str  # "done", "failed", "out of time" or "left out"
    seconds: float = 0
    printed: str = ""  # the end of it


def plan(out: Path) -> list[Step]:
    """Return the steps: what decides whether the kernels are right comes first."""
    python, benchmarks = sys.executable, ROOT / "benchmarks"
    networks = (python, str(benchmarks / "networks.py"), "--device", "cuda", "--seconds", "5")
    timings = [
        Step(
            f"networks, batch {batch}",
            (*networks, "--batch", str(batch), "--networks", *TABLE_5, "--modes", "eager", "folded", "compiled",
             "--json", str(out / f"networks-cuda-batch-{batch}.json")),
            2.5,
        )
        for batch in (1, 32, 64)
    ]  # fmt: skip
    return [
        Step("build", (python, "-m", "dicenas", "kernels", "build"), 2),
        Step("kernels in use", (python, "-m", "dicenas", "kernels"), 1),
        Step(
            "tests",
            (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernels/test_gpu.py"),
            3,
        ),
        Step(
            "kernels",
            (python, str(benchmarks / "kernels.py"), "--device", "cuda", "--seconds", "1", "--batches", "1", "8", "32",
             "64", "--dtypes", "float32", "bfloat16", "float16", "--json", str(out / "kernels-cuda.json")),
            3,
        ),
        *timings,
        Step(
            "latency table",
            (python, str(benchmarks / "latency.py"), "--name", "latency-cuda", "--device", "cuda", "--nets", "30",
             "--out", str(out)),
            4,
        ),
    ]  # fmt: skip


def run(step: Step, seconds: float) -> Outcome:
    """Run a step for so long at most."""
    start = time.perf_counter()
    outcome = Outcome(step.name, shlex.join(step.command), "left out")
    if seconds <= 0:
        return outcome
    process = subprocess.Popen(
        step.command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        printed, _ = process.communicate(timeout=seconds)
        state = "done" if process.returncode == 0 else "failed"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # with the compilers that it has started
        printed, _ = process.communicate()
        state = "out of time"
    return replace(outcome, state=state, seconds=round(time.perf_counter() - start, 1), printed=printed[-6000:])


def run_all(steps: Sequence[Step], out: Path, minutes: float, about: dict[str, object]) -> list[Outcome]:
    """Run the steps as far as the minutes go; the summary is written anew after each."""
    stop = time.perf_counter() + 60 * minutes
    outcomes: list[Outcome] = []
    for step in steps:
        outcomes.append(run(step, min(60 * step.minutes, stop - time.perf_counter())))
        print(f"{step.name}: {outcomes[-1].state}, {outcomes[-1].seconds} s", flush=True)
        summary = {"machine": about, "steps": [asdict(outcome) for outcome in outcomes]}
        (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return outcomes


def describe_gpu() -> dict[str, object]:
    """Return what the figures depend on.

    Raises:
        RuntimeError: torch finds no GPU.
    """
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError(f"torch {torch.__version__} finds no CUDA device: this command is for machines with one")
    properties = torch.cuda.get_device_properties(0)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "l2_cache_bytes": properties.L2_cache_size,
        "memory_bytes": properties.total_memory,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": sys.version.split()[0],
    }


def main(arguments: Sequence[str] | None = None, describe: Callable[[], dict[str, object]] = describe_gpu) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8, help="for everything together (default: 8)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results, new or empty")
    args = parser.parse_args(arguments)
    out = args.out.resolve()
    if out.exists() and any(out.iterdir()):
        parser.error(f"{out} is not empty")
    try:
        about = describe()
    except RuntimeError as error:
        parser.error(str(error))
    # The tests have a home of their own, but are to find what the first step builds.
    os.environ.setdefault("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    # Machine code for this GPU alone is compiled in seconds.
    os.environ.setdefault("DICENAS_CUDA_ARCHS", str(about["compute_capability"]).replace(".", ""))
    out.mkdir(parents=True, exist_ok=True)
    outcomes = run_all(plan(out), out, args.minutes, about)
    return 0 if all(outcome.state == "done" for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
