"""What `make search` finds, beside other ways to search the same space in the same time.

    python benchmarks/quickstart.py --json benchmarks/results/quickstart.json          # half an hour
    python benchmarks/quickstart.py --ways configured "configured, 2 workers" --seeds 1

Each way is configs/quickstart.yaml with another `search:` section, run as a user would run it; "configured" is the file
as it stands. Ways take turns. What a run had found is judged at the end of the shortest run of all: the hypervolume of
accuracy and latency, from the worst values of all runs, and the best accuracy. Latencies are measured again after the
last run, all networks in turns, so that runs do not differ in what disturbed them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml
from measure import keep_memory, machine, write

if TYPE_CHECKING:
    from dicenas import Architecture

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"
#: Changes of the `search:` section, and arguments of the command, by name of the way.
_PLAIN: dict[str, Any] = {"first": [], "first_from_proxy": 0}
WAYS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "random": ({**_PLAIN, "sampler": "random"}, []),
    "nsga2": ({**_PLAIN, "sampler": "nsga2"}, []),
    "configured": ({}, []),
    "configured, 2 workers": ({}, ["--workers", "2"]),
}
_ROUNDS = 20


@dataclass(frozen=True)
class Run:
    """A search that was run.

    Attributes:
        way: Name of the way.
        seed: Seed.
        wall_s: How long it took, from start to exit.
        found: Seconds from its start, architecture and accuracy of each complete trial.
    """

    way: str
    seed: int
    wall_s: float
    found: list[tuple[float, Architecture, float]]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = [name for name in WAYS if "workers" not in name]
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=default, help="(default: those of one process)")
    parser.add_argument("--seeds", type=int, default=3, help="searches of each way (default: 3)")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    keep_memory()

    with TemporaryDirectory() as folder:
        runs = [searched(way, seed, Path(folder)) for seed in range(args.seeds) for way in args.ways]
    limit_s = min(run.wall_s for run in runs)
    rows = judged(runs, limit_s)
    for row in rows:
        print(row)
    for way in args.ways:
        of_way = [row for row in rows if row["way"] == way]
        mean = {key: statistics.fmean(row[key] for row in of_way) for key in ("hypervolume", "best_accuracy", "wall_s")}
        print(f"{way:24}" + "".join(f"  {key} {value:.4f}" for key, value in mean.items()))
    write(args.json, {**machine("cpu", 1), "time_limit_s": round(limit_s, 1)}, rows)


def searched(way: str, seed: int, folder: Path) -> Run:
    """Run one search."""
    from dicenas.events import read_events
    from dicenas.runs import RunFolder

    change, arguments = WAYS[way]
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    config["search"] = {**config["search"], **change, "seed": seed}
    if not config["search"].get("first_from_proxy"):
        config.pop("proxy", None)
    name = f"{way.replace(', ', '-').replace(' ', '-')}-{seed}"
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [sys.executable, "-m", "dicenas", "search", str(path), "--out", str(folder), "--name", name, *arguments]
    began, start = time.time(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wall_s = time.perf_counter() - start
    run = RunFolder(folder / name)
    # Not the times of the files: at the end of a search, those of the front are written again, with more metrics.
    ended = {e["trial"]: e["time"] for e in read_events(run.events_path.read_bytes()) if e["event"] == "trial_ended"}
    found = [
        (ended[trial.number] - began, trial.architecture, trial.metrics["accuracy"])
        for trial in run.trials()
        if trial.state == "complete"
    ]
    print(f"{way}, seed {seed}: {len(found)} trials in {wall_s:.0f} s", file=sys.stderr)
    return Run(way, seed, wall_s, found)


def judged(runs: list[Run], limit_s: float) -> list[dict[str, Any]]:
    """Return a row for each run: what it had found at the limit."""
    from tabular.latency import measure

    from dicenas.pareto import Direction, hypervolume

    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["latency"]
    networks = list(dict.fromkeys(architecture for run in runs for _, architecture, _ in run.found))
    deployed = [architecture.at_size(config["input_size"]) for architecture in networks]
    times = measure(deployed, config["runtime"], _ROUNDS)
    latency_ms = {a: statistics.median(of) for a, of in zip(networks, times, strict=True)}
    objectives: dict[str, Direction] = {"accuracy": "maximize", "latency_ms": "minimize"}
    reference = {
        "accuracy": min(accuracy for run in runs for *_, accuracy in run.found),
        "latency_ms": max(latency_ms.values()),
    }
    rows = []
    for run in runs:
        within = [(a, accuracy) for after, a, accuracy in run.found if after <= limit_s]
        points = [{"accuracy": accuracy, "latency_ms": latency_ms[a]} for a, accuracy in within]
        rows.append(
            {
                "way": run.way,
                "seed": run.seed,
                "wall_s": round(run.wall_s, 1),
                "trials_within_limit": len(points),
                "hypervolume": round(hypervolume(points, objectives, reference), 4),
                "best_accuracy": max((p["accuracy"] for p in points), default=reference["accuracy"]),
            }
        )
    return rows


if __name__ == "__main__":
    main()
