"""Train every architecture of a small space on CIFAR-10 images, measure their latency, and describe the result.

    python benchmarks/tabular/generate.py train                # takes up benchmarks/tabular/cifar10.jsonl, or begins it
    python benchmarks/tabular/generate.py latency               # on a machine that does nothing else
    python benchmarks/tabular/generate.py proxies
    python benchmarks/tabular/generate.py supernet
    python benchmarks/tabular/generate.py statistics

`train` may be killed at any moment and started again, and any number of processes may train side by side: finished
trainings stand in the file and are not repeated. `touch STOP` (see --stop) ends them after the training they are at.
README.md in this folder says what the space and the recipe are and why.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEFAULT_TABLE = HERE / "cifar10.jsonl"
SAMPLINGS = ("uniform", "sandwich")
sys.path[0] = str(HERE.parent)  # as for the programs beside this folder: its modules are found as tabular.table, ...


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train what the file lacks")
    train.add_argument("--table", type=Path, default=DEFAULT_TABLE, help="file of finished trainings")
    train.add_argument("--data", type=Path, help="folder of cifar10-train.zip and cifar10-test.zip")
    train.add_argument("--stop", type=Path, help="ends before the next training where this file exists")
    train.add_argument("--limit", type=int, help="ends after this many trainings")
    latency = commands.add_parser("latency", help="measure the latency of every architecture")
    latency.add_argument("--size", action="append", help="native or deployed, repeatable (default: both)")
    latency.add_argument("--runtime", action="append", help="repeatable (default: eager, kernels and fused)")
    latency.add_argument("--rounds", type=int, default=30, help="timed runs of each network, interleaved")
    latency.add_argument("--limit", type=int, help="only the first architectures, for a try")
    latency.add_argument("--json", type=Path, default=HERE / "latency.json", help="file for the result")
    proxies = commands.add_parser("proxies", help="score every architecture by every zero-cost proxy")
    supernet = commands.add_parser("supernet", help="train a supernet, and read every architecture's accuracy off it")
    supernet.add_argument("--sampling", choices=SAMPLINGS, default=SAMPLINGS[0], help=f"(default: {SAMPLINGS[0]})")
    for command in (proxies, supernet):
        command.add_argument("--data", type=Path, help="folder of cifar10-train.zip and cifar10-test.zip")
        command.add_argument("--json", type=Path, default=HERE / "scores.json", help="file that scores are added to")
    statistics = commands.add_parser("statistics", help="noise between seeds, ranges, Pareto fronts")
    statistics.add_argument("--table", type=Path, default=DEFAULT_TABLE)
    statistics.add_argument("--latency", type=Path, default=HERE / "latency.json")
    statistics.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stdout)
    if args.command == "train":
        from tabular import training

        return training.run(args.table, args.data, args.stop, args.limit)
    if args.command == "latency":
        from measure import keep_memory
        from tabular import latency

        keep_memory()
        return latency.run(args.json, args.size, args.runtime, args.rounds, args.limit)
    if args.command in ("proxies", "supernet"):
        from tabular import scores

        if args.command == "proxies":
            return scores.run_proxies(args.json, args.data)
        return scores.run_supernet(args.json, args.data, dataclasses.replace(scores.SUPERNET, sampling=args.sampling))
    from tabular import describe

    return describe.run(args.table, args.latency, args.json)


if __name__ == "__main__":
    sys.exit(main())
