"""Measure the latency table of the quickstart space on this machine and check it on networks that it has not seen.

    python benchmarks/latency.py --name laptop
    python benchmarks/latency.py --name h200 --device cuda --batch 32

Writes ``NAME-table.json``, ``NAME-check.json`` and, where matplotlib is installed, ``NAME-check.png`` into
benchmarks/results/latency. NNI, Optuna and thop are not needed. Interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from dicenas.cost import LatencySettings
from dicenas.cost.build import BuildPlan, build_table
from dicenas.cost.check import check_table
from dicenas.cost.table import LatencyTable
from dicenas.files import atomic_write_text
from dicenas.space import SpaceSpec

ROOT = Path(__file__).resolve().parent.parent
QUICKSTART = ROOT / "configs" / "quickstart.yaml"


def main() -> None:
    """Build, check, and say how good it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the machine, in the names of the files")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "latency")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runtime", default="kernels")
    parser.add_argument("--contexts", type=int, default=BuildPlan().contexts)
    parser.add_argument("--nets", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
    # The digits have 10 classes; their images need not be there to time networks.
    space = SpaceSpec.from_config(config["space"], num_classes=10, image_size=config["data"]["image_size"])
    settings = LatencySettings(args.device, args.batch, threads=args.threads, runtime=args.runtime)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{args.name}-table.json"
    if not path.exists():
        plan = BuildPlan(contexts=args.contexts)
        build_table(
            space, settings, path, input_size=config["latency"]["input_size"], plan=plan, progress=_say("measured")
        )
    table = LatencyTable.load(path)
    check = check_table(
        table, settings, networks=args.nets, progress=lambda done, all_: _say("checked")(done, all_, "")
    )
    data = {"fingerprint": table.to_dict()["fingerprint"], "measured_at": table.measured_at, **check.to_dict()}
    atomic_write_text(args.out / f"{args.name}-check.json", json.dumps(data, indent=1) + "\n")
    if importlib.util.find_spec("matplotlib"):
        from dicenas.report.latency_plots import plot_check

        found = table.fingerprint
        device = f"{found.device_name}, runtime {found.runtime}, batch {found.batch}, threads {found.threads}"
        plot_check(check, device, args.out / f"{args.name}-check.png")
    for name, found in check.methods.items():
        print(f"{name:10} {found}")


def _say(what: str) -> Callable[[int, int, str], None]:
    def say(done: int, tasks: int, name: str) -> None:
        if done % 10 == 0 or done == tasks:
            print(f"{what} {done} of {tasks}", flush=True)

    return say


if __name__ == "__main__":
    main()
