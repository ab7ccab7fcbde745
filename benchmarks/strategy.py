"""Trials a second of each sampler by itself: propose, canonicalise, check costs, ask, tell; nothing is trained.

    python benchmarks/strategy.py --json benchmarks/results/strategy.json

A row is one sampler at one number of trials, on storage in memory, for accuracy and MACs under a bound on MACs. The
evaluation is a sum over the names of the ops. `trials_per_s` is from first ask to last tell; `cpu_trials_per_s` counts
the processor's time alone, which other work on the machine disturbs less. `create_ms` is one study made and thrown
away.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from measure import machine, write

#: Of one trial these samplers take a tenth of a second and more.
SLOW = ("gp", "tpe")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--slow-trials", type=int, default=30, help=f"trials of {' and '.join(SLOW)}")
    parser.add_argument("--slack", type=float, default=2.0, help="bound on MACs, in multiples of the space's smallest")
    parser.add_argument("--only", nargs="+", metavar="SAMPLER", help="samplers (default: all)")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()

    import optuna

    from dicenas.strategies import SAMPLERS
    from dicenas.strategies.samplers import check_sampler

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = args.only or list(SAMPLERS)
    for name in names:
        check_sampler(name)
    rows = []
    for name in names:
        for trials in [args.slow_trials] if name in SLOW else args.trials:
            row = measure_sampler(name, trials, args.slack)
            rows.append(row)
            print(
                f"{name:10} {trials:5} trials: {row['trials_per_s']:7.1f} trials/s "
                f"({row['cpu_trials_per_s']:.1f} by the processor's time), "
                f"drawn again: {row['infeasible']} infeasible, {row['duplicate']} known already",
                flush=True,
            )
    write(args.json, machine("cpu", 1), rows)


def measure_sampler(sampler: str, trials: int, slack: float) -> dict[str, object]:
    """Run one search."""
    import torch

    from dicenas.architecture import Architecture
    from dicenas.space import SpaceSpec
    from dicenas.strategies import ArchitectureStudy

    torch.set_num_threads(1)
    space = SpaceSpec(
        "shufflenetv2",
        ops=("separable", "separable_se", "dice", "skip"),
        widths=(0.5, 0.75, 1.0),
        depths=((1, 2), (1, 3), (1, 2)),
        stems=("small",),
        resolutions=(32,),
        num_classes=10,
    )

    def study() -> ArchitectureStudy:
        constraints = {"macs": slack * space.minimum("macs")}
        return ArchitectureStudy(space, sampler, ("accuracy", "macs"), constraints=constraints, seed=0)

    def accuracy(architecture: Architecture) -> float:
        return sum(len(op) for stage in architecture.stages for op in stage) / 100

    study().ask()  # what is prepared once for a space
    start = time.perf_counter()
    search = study()
    created = time.perf_counter()
    cpu = time.process_time()
    for _ in range(trials):
        proposal = search.ask()
        assert proposal.architecture is not None
        search.tell(proposal, {"accuracy": accuracy(proposal.architecture)})
    cpu_seconds, seconds = time.process_time() - cpu, time.perf_counter() - created
    counts = search.counts
    return {
        "sampler": sampler,
        "trials": trials,
        "trials_per_s": round(trials / seconds, 1),
        "cpu_trials_per_s": round(trials / cpu_seconds, 1),
        "create_ms": round((created - start) * 1e3, 2),
        "infeasible": counts.infeasible,
        "duplicate": counts.duplicate,
    }


if __name__ == "__main__":
    main()
