"""How much a search finds for its budget: ways to search, replayed on the tabular benchmark, against random search.

    python benchmarks/search.py --json benchmarks/results/search.json --plot docs/images/search.png     # some minutes
    python benchmarks/search.py --quick                                                        # under two minutes

A search sees the validation accuracies of one training of each architecture, and the latency. What it found is judged
by the mean accuracy on test images: the hypervolume of accuracy and latency of the networks that it trained, and the
accuracy of the network that it takes for the best under a bound on latency. Budgets are trained epochs; random search
has as many as it takes to train a quarter of the space, and the same filter of duplicates and of architectures that
break the bound on multiply-adds. Nobody begins with known networks. What a supernet's training costs is taken off the
budget. Intervals hold 95 % of bootstrap samples over the seeds.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure import machine, write
from tqdm import tqdm

HERE = Path(__file__).resolve().parent / "tabular"
#: Seeds of the comparison; those below 1000 were used to choose settings.
FIRST_SEED = 1000
SEEDS = 30
QUICK_SEEDS = 8
#: Random search trains this share of the space.
SHARE_OF_SPACE = 0.25
#: Points of the budget at which searches are judged.
_POINTS = 96
_BOOTSTRAP = 2000
#: Left out with --quick: proposing takes it longer than the whole search of the others.
SLOW = ("gp",)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=HERE / "cifar10.jsonl", help="file of finished trainings")
    parser.add_argument("--latency", type=Path, default=HERE / "latency.json", help="file of latencies")
    parser.add_argument("--scores", type=Path, default=HERE / "scores.json", help="file of proxies and supernet")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="only these ways to search")
    parser.add_argument("--seeds", type=int, help=f"searches of each kind (default: {SEEDS}; --quick: {QUICK_SEEDS})")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help=f"(default: {FIRST_SEED})")
    parser.add_argument("--quick", action="store_true", help="fewer seeds, and without the slowest samplers")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--plot", type=Path, help="file for a picture of the results")
    args = parser.parse_args()

    from tabular import replay, scores

    try:
        benchmark = replay.Benchmark(args.table, args.latency, scores.read(args.scores))
        budget = round(SHARE_OF_SPACE * benchmark.space.size) * benchmark.epochs
    except ValueError as error:
        parser.error(str(error))
    methods = replay.methods(benchmark)
    names = args.methods or [name for name in methods if not (args.quick and name in SLOW)]
    if unknown := set(names) - set(methods):
        parser.error(f"unknown methods {', '.join(sorted(unknown))} (known: {', '.join(methods)})")
    names = list(dict.fromkeys(["random", *names]))
    seeds = range(args.first_seed, args.first_seed + (args.seeds or (QUICK_SEEDS if args.quick else SEEDS)))

    tasks = [(name, seed) for seed in seeds for name in names]
    curves: dict[str, list[Any]] = {name: [] for name in names}
    with ProcessPoolExecutor(args.workers, initializer=_start, initargs=(benchmark, budget)) as pool:
        runs = pool.map(_search, tasks, chunksize=4)
        for (name, _), curve in tqdm(zip(tasks, runs, strict=True), total=len(tasks), unit="search", disable=None):
            curves[name].append(curve)

    rows = compared(curves, budget)
    about = {
        **machine("cpu", args.workers),
        "seeds": [seeds[0], seeds[-1]],
        "budget_epochs": budget,
        "epochs_of_a_training": benchmark.epochs,
        "architectures": benchmark.space.size,
        "feasible": len(benchmark.architectures),
        "max_macs": replay.MAX_MACS,
        "seeds_of_the_table": list(benchmark.of_seed),
        "reference": benchmark.reference,
        "latency_bound_ms": benchmark.latency_bound_ms,
        "rank_correlation": replay.rank_correlations(benchmark),
    }
    print(_table(rows, about))
    write(args.json, about, rows)
    if args.plot:
        from tabular import picture

        picture.draw(args.plot, curves, rows, budget)


_benchmark: Any = None
_budget = 0


def _start(benchmark: Any, budget: int) -> None:
    import logging

    import optuna

    global _benchmark, _budget
    _benchmark, _budget = benchmark, budget
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("dicenas").setLevel(logging.WARNING)


def _search(task: tuple[str, int]) -> tuple[list[float], list[float | None], int]:
    """Run one search; return its hypervolumes and best accuracies at each point, and the number of its trainings."""
    from tabular import replay

    name, seed = task
    trained = replay.replay(_benchmark, replay.methods(_benchmark)[name], seed, _budget)
    found = [replay.quality(_benchmark, trained, round(_budget * (i + 1) / _POINTS)) for i in range(_POINTS)]
    return [volume for volume, _ in found], [best for _, best in found], len(trained)


def compared(curves: dict[str, list[Any]], budget: int) -> list[dict[str, Any]]:
    """Return a row for each method: its figures at the end, and what share of random's budget equals random's end."""
    rng = np.random.default_rng(0)
    volumes = {name: np.array([volume for volume, _, _ in of_seeds]) for name, of_seeds in curves.items()}
    count = len(volumes["random"])
    # The same seeds for everybody in each sample.
    samples = rng.integers(0, count, (_BOOTSTRAP, count))
    rows = []
    for name, of_seeds in curves.items():
        best = np.array([np.nan if best[-1] is None else best[-1] for _, best, _ in of_seeds])
        match = partial(_budget_to_match, volumes[name], volumes["random"])
        shares = [match(sample) for sample in samples]
        rows.append(
            {
                "method": name,
                "hypervolume": _mean(volumes[name][:, -1], samples),
                "best_accuracy_under_bound": _mean(best, samples),
                "budget_to_match_random": {
                    "share": _or_none(match(np.arange(count))),
                    "interval": [_or_none(float(np.quantile(shares, q, method="nearest"))) for q in (0.025, 0.975)],
                },
                "trainings": float(np.mean([trainings for _, _, trainings in of_seeds])),
            }
        )
    return sorted(rows, key=lambda row: row["budget_to_match_random"]["share"] or math.inf)


def _or_none(share: float) -> float | None:
    """Return None for a budget that is never enough: JSON has no infinity."""
    return share if math.isfinite(share) else None


def _budget_to_match(volumes: Any, random: Any, sample: Any) -> float:
    """Return the share of the budget at which the mean hypervolume is random's final one; infinity if it never is."""
    reached = volumes[sample].mean(0) >= random[sample, -1].mean()
    return float((reached.argmax() + 1) / len(reached)) if reached.any() else float("inf")


def _mean(values: Any, samples: Any) -> dict[str, Any]:
    means = np.nanmean(values[samples], axis=1)
    return {"mean": float(np.nanmean(values)), "interval": [float(np.quantile(means, q)) for q in (0.025, 0.975)]}


def _table(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    width = max(len(row["method"]) for row in rows)
    lines = [
        f"{about['feasible']} of {about['architectures']} architectures meet the bound; budget "
        f"{about['budget_epochs']} epochs; searches with seeds {about['seeds'][0]} to {about['seeds'][1]}",
        "",
        f"{'method':{width}}  {'budget to match random':22}  {'hypervolume, % of all':21}  "
        f"{'accuracy under bound, %':23}  trainings",
    ]
    for row in rows:
        match, volume, best = (row[k] for k in ("budget_to_match_random", "hypervolume", "best_accuracy_under_bound"))
        shares = ["never" if share is None else f"{share:.2f}" for share in (match["share"], *match["interval"])]
        volumes, accuracies = ([100 * value for value in (of["mean"], *of["interval"])] for of in (volume, best))
        lines.append(
            f"{row['method']:{width}}  {_interval(shares):22}  {_interval([f'{v:.1f}' for v in volumes]):21}  "
            f"{_interval([f'{a:.2f}' for a in accuracies]):23}  {row['trainings']:9.0f}"
        )
    lines += ["", "Kendall's tau with the test accuracy of a training (within a width and resolution):"]
    for name, tau in about["rank_correlation"].items():
        lines.append(f"  {name:24} {tau['all']:6.3f} ({tau['within']:6.3f})")
    return "\n".join(lines)


def _interval(values: Sequence[str]) -> str:
    value, low, high = values
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    sys.exit(main())
