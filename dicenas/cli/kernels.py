"""``dicenas kernels``: which fused kernels are in use, and building them."""

from __future__ import annotations

import argparse

from dicenas.cli.arguments import Subparsers

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Say which of the fused kernels of dimension-wise convolution are in use, why others are not, and how to get them. With
`build`, compile them on this machine; g++ or clang++ is needed for those of the CPU, nvcc for those of a GPU. Without
nvcc a GPU's kernels are compiled at first use by the NVRTC library that comes with torch.
"""
_EXAMPLES = """\
examples:
  dicenas kernels
  dicenas kernels build             compile what this machine has a compiler for
  dicenas kernels build cpu         only those of the CPU
  DICENAS_KERNELS=off dicenas ...   run in plain PyTorch
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "kernels", help="show or build the fused kernels", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    parser.add_argument("action", nargs="?", choices=("show", "build"), default="show", help="(default: show)")
    parser.add_argument("kind", nargs="?", choices=("cpu", "cuda"), help="build these only")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what is loaded, or build."""
    if args.action == "build":
        return _build(args.kind)
    if args.kind is not None:
        raise ValueError(f"`dicenas kernels show` takes no kind, got {args.kind!r}")
    from dicenas.ops.kernels import describe
    from dicenas.report import print_table

    print_table(["kernels", "in use", "details"], [list(row) for row in describe()], align="lll")
    return 0


def _build(kind: str | None) -> int:
    from dicenas.ops.kernels.build import KINDS, BuildError, build_in_cache

    failed = False
    for each in KINDS if kind is None else (kind,):
        try:
            print(f"{each}: built as {build_in_cache(each)}")
        except BuildError as error:
            failed = True
            print(f"{each}: not built: {error}")
    return 2 if failed and kind is not None else 0
