"""``dicenas search``: runs or goes on with the search of a configuration."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from dicenas.cli.arguments import Subparsers, non_negative_int, positive_int

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Run the search that a YAML file describes. The folder OUT/NAME gets every trial with its weights, the Pareto
front, the exported network and report.html; with a final: section, the best are then trained for real. Whatever
ends a search, the same command goes on with it; one that has all its trials adds none.
"""
_EXAMPLES = """\
examples:
  dicenas search configs/quickstart.yaml
  dicenas search configs/quickstart.yaml --trials 48        add trials to the run, up to 48 in all
  dicenas search configs/quickstart.yaml --seed 1 --name quickstart-1
  dicenas search configs/quickstart.yaml --workers 4        four trials side by side
  dicenas search CONFIG --storage postgresql://nas:SECRET@db/nas    dicenas worker joins from other machines
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "search", help="run the search of a configuration", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    parser.add_argument("config", metavar="CONFIG", help="YAML file, such as configs/quickstart.yaml")
    parser.add_argument("--trials", type=positive_int, metavar="N", help="trials of the whole run, for search.trials")
    parser.add_argument("--seed", type=non_negative_int, metavar="N", help="seed, for search.seed")
    parser.add_argument("--name", help="name of the run and of its folder")
    parser.add_argument("--workers", type=positive_int, default=1, metavar="N", help="processes side by side")
    parser.add_argument("--storage", metavar="URL", help="database of the study, for workers on other machines")
    parser.add_argument("--proxy", metavar="HOST:PORT", help="Optuna's gRPC proxy in front of the database")
    parser.add_argument("--tensorboard", action="store_true", help="scalars for TensorBoard in the run folder")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the run folders (default: runs)")
    parser.set_defaults(run=run, after_interrupt="; finished trials are kept, the same command goes on with the run")


def run(args: argparse.Namespace) -> int:
    """Search, then print the front and where the results are."""
    from dicenas.config import load_config, parse_config

    config = load_config(args.config)
    settings = config.to_dict()
    for section, key, value in (("search", "trials", args.trials), ("search", "seed", args.seed)):
        if value is not None:
            settings[section][key] = value
    if args.name is not None:
        settings["name"] = args.name
    config = parse_config(settings, args.config)

    # Imported late: a mistake in the configuration is told before NNI and Optuna are loaded.
    from dicenas.report import print_final, print_front
    from dicenas.search import run_search

    storage = args.storage or os.environ.get("DICENAS_STORAGE")
    result = run_search(
        config, args.out, workers=args.workers, storage=storage, proxy=args.proxy, tensorboard=args.tensorboard
    )
    if not result.new_trials:
        print(f"{result.run.path} has all its trials already: nothing was added")
    print_front(result.front, result.objectives)
    if result.final:
        print()
        print_final(result.final)
    print(f"\nreport:   {result.run.report_path}")
    if result.run.export_path.is_dir():
        print(f"exported: {result.run.export_path}{' (as it was searched)' if result.final else ''}")
    return 0
