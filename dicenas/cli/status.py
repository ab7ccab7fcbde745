"""``dicenas status``: how far a search is."""

from __future__ import annotations

import argparse

from dicenas.cli.arguments import Subparsers

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Show how far a search is: trials by state, the best so far, how many an hour, the time left, and who works on it;
of a run folder also the final trainings.
"""
_EXAMPLES = """\
examples:
  dicenas status runs/quickstart
  dicenas status postgresql://nas:SECRET@db/nas               all searches in a database
  dicenas status postgresql://nas:SECRET@db/nas --study quickstart
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("status", help="how far a search is", description=_DESCRIPTION, epilog=_EXAMPLES)
    parser.add_argument("source", metavar="RUN|URL", help="run folder, or database of the study")
    parser.add_argument("--study", metavar="NAME", help="one study of the database (default: all)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the status of each study."""
    from dicenas.final import read_final_trials
    from dicenas.runs import RunFolder
    from dicenas.workers.status import read_statuses

    for status in read_statuses(args.source, args.study):
        print(status)
    # Their files are not in the database.
    for final in [] if "://" in args.source else read_final_trials(RunFolder(args.source)):
        print(f"  final:   {final}")
    return 0
