"""``dicenas ops``: the registered candidate ops."""

from __future__ import annotations

import argparse

from dicenas.cli.arguments import Subparsers, positive_int

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
List the candidate ops that blocks of a network can be made of. In a configuration an op's name stands for all its
kernel sizes, and dice_k3 for one of them.
"""
_EXAMPLES = """\
examples:
  dicenas ops
  dicenas ops --cost 116 116 28                what each costs for 116 channels on maps of 28 x 28
  dicenas ops --cost 116 232 14 --stride 2     the size is that of the output
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("ops", help="list the candidate ops", description=_DESCRIPTION, epilog=_EXAMPLES)
    parser.add_argument(
        "--cost",
        nargs=3,
        type=positive_int,
        metavar=("C_IN", "C_OUT", "SIZE"),
        help="show FLOPs (MACs) and parameters for these channels and this size of the output, with PReLU",
    )
    parser.add_argument("--stride", type=int, choices=(1, 2), default=1, help="stride for --cost (default: 1)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table of ops, or of their costs."""
    from dicenas.ops import get_op, list_ops
    from dicenas.report import print_table

    if args.cost is None:
        rows = [
            [op.name, ", ".join(map(str, op.kernel_sizes)) or "–", ", ".join(op.candidates), op.summary.rstrip(".")]
            for op in map(get_op, list_ops())
        ]
        print_table(["op", "kernel sizes", "candidates", "summary"], rows, align="llll")
    else:
        in_channels, out_channels, size = args.cost
        _print_costs(in_channels, out_channels, size, args.stride)
    return 0


def _print_costs(in_channels: int, out_channels: int, size: int, stride: int) -> None:
    from dicenas.ops import CandidateArguments, candidate_cost, expand_candidates, list_ops, parse_candidate
    from dicenas.report import print_table

    rows = []
    for candidate in expand_candidates(list_ops()):
        op, kernel_size = parse_candidate(candidate)
        arguments = CandidateArguments(
            in_channels, out_channels, stride, (size, size), kernel_size, "prelu", final_activation=True
        )
        if op.supports is not None and not op.supports(arguments):
            rows.append([candidate, "–", "–"])
            continue
        cost = candidate_cost(candidate, arguments)
        rows.append([candidate, f"{cost.macs:,}", f"{cost.params:,}"])
    title = f"{in_channels} to {out_channels} channels, output {size}×{size}, stride {stride} (–: does not fit)"
    print_table(["candidate", "FLOPs (MACs)", "params"], rows, align="lrr", title=title)
