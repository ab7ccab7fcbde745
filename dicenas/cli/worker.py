"""``dicenas worker``: works on a search that another process started."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from dicenas.cli.arguments import Subparsers, non_negative_int, positive_int

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Work on a search that `dicenas search --storage URL` started, on this machine or another. The configuration comes
from the study. Results go to OUT/STUDY: name the same folder on all machines, where they share a file system.
"""
_EXAMPLES = """\
examples:
  dicenas search configs/quickstart.yaml --storage postgresql://nas:SECRET@db/nas
  dicenas worker --storage postgresql://nas:SECRET@db/nas --study quickstart --device cuda:1
  DICENAS_STORAGE=postgresql://... dicenas worker --study quickstart --trials 10

The URL may stand in DICENAS_STORAGE instead, where no other user of the machine reads the password.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "worker", help="work on a search that runs elsewhere", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    parser.add_argument("--storage", metavar="URL", help="the study's database (default: DICENAS_STORAGE)")
    parser.add_argument("--proxy", metavar="HOST:PORT", help="Optuna's gRPC proxy in front of the database")
    parser.add_argument("--study", required=True, metavar="NAME", help="name of the search")
    parser.add_argument("--device", help="where to train: cpu, cuda, cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--trials", type=positive_int, metavar="N", help="trials of this worker at most")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the run folders (default: runs)")
    # What `dicenas search` tells the workers that it starts.
    parser.add_argument("--index", type=non_negative_int, help=argparse.SUPPRESS)
    parser.add_argument("--descriptor", type=non_negative_int, help=argparse.SUPPRESS)
    parser.set_defaults(run=run, after_interrupt="; its trial is proposed again")


def run(args: argparse.Namespace) -> int:
    """Work until the search has its trials."""
    storage = args.storage or os.environ.get("DICENAS_STORAGE")
    if not storage:
        raise ValueError("no storage: give --storage URL, or set DICENAS_STORAGE")
    from dicenas.search import join_search

    reason = join_search(
        storage,
        args.study,
        args.out,
        device=args.device,
        proxy=args.proxy,
        most=args.trials,
        index=args.index,
        descriptor=args.descriptor,
    )
    if args.descriptor is None:
        print(f"{args.study}: {reason or 'the trials of this worker are done'}")
    return 0
