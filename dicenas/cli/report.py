"""``dicenas report``: writes the report of a run again."""

from __future__ import annotations

import argparse
from pathlib import Path

from dicenas.cli.arguments import Subparsers

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Write report.html of a run from what its folder holds, also while the search is still going on, and print the
Pareto front. The report is one file that opens without a network.
"""
_EXAMPLES = """\
examples:
  dicenas report runs/quickstart
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "report", help="write the report of a run", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    parser.add_argument("folder", metavar="RUN", type=Path, help="run folder, such as runs/quickstart")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the report and print the front."""
    from dicenas.report import print_front, write_report
    from dicenas.report.summary import RunSummary
    from dicenas.runs import RunFolder

    folder = RunFolder(args.folder)
    path = write_report(folder)
    summary = RunSummary.read(folder)
    if summary.front:
        print_front(summary.front, summary.objectives)
        print()
    else:
        print("no complete trial yet")
    print(f"report: {path}")
    return 0
