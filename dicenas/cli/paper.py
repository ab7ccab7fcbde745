"""``dicenas paper``: the paper's tables, our networks beside them."""

from __future__ import annotations

import argparse
from pathlib import Path

from dicenas.cli.arguments import Subparsers

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Compare DiCENet's paper (arXiv 1906.03516) with the networks here: FLOPs (multiply-adds) from closed forms beside the
paper's. Accuracies are the paper's own. Without options, the tables are listed.
"""
_EXAMPLES = """\
examples:
  dicenas paper
  dicenas paper --table 2
  dicenas paper --figure 2 --plot figure2.png
  dicenas profile configs/paper/table3_resnet_r6.yaml    the network of a row, block by block
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "paper", help="compare the paper's tables with our networks", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--table", type=int, choices=(1, 2, 3, 4, 8), help="number of a table")
    which.add_argument("--figure", type=int, choices=(2,), help="number of a figure")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the figure into this file, .png, .svg or .pdf")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print a table or figure, or the list of them."""
    from dicenas.paper.compare import compare_figure_2, compare_table, compared_tables
    from dicenas.report import print_table

    if args.plot is not None and args.figure is None:
        raise ValueError("--plot draws a figure: give --figure 2 with it")
    if args.figure is not None:
        if args.plot is not None:
            from dicenas.report.figures import check_plot_path

            check_plot_path(args.plot)
        table, pies = compare_figure_2()
        tables = [table]
        if args.plot is not None:
            from dicenas.report.plots import plot_figure_2

            plot_figure_2(pies, args.plot)
    elif args.table is not None:
        tables = compare_table(args.table)
    else:
        rows = [[f"--table {number}", title] for number, title in compared_tables().items()]
        rows.append(["--figure 2", "FLOPs by kind of layer"])
        print_table(["option", "what it compares"], rows, align="ll")
        return 0
    for number, table in enumerate(tables):
        if number:
            print()
        print_table(table.columns, table.rows, align=table.align, title=table.title)
        print("\n".join(table.notes))
    if args.plot is not None:
        print(f"\nDrawn into {args.plot}")
    return 0
