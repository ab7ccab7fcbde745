"""The command line, ``dicenas COMMAND``: one module a command, each with ``add_parser`` and ``run``.

Commands import what they need when they run, so that ``dicenas --help`` does not wait for torch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from dicenas import __version__
from dicenas.cli import (
    convert,
    export,
    kernels,
    latency,
    ops,
    paper,
    profile,
    report,
    search,
    segment,
    spaces,
    status,
    train,
    worker,
)

__all__ = ["main"]

_COMMANDS = (
    search,
    worker,
    status,
    report,
    train,
    export,
    profile,
    latency,
    ops,
    spaces,
    convert,
    segment,
    paper,
    kernels,
)

_EXAMPLES = """\
examples:
  dicenas search configs/quickstart.yaml        search, report, and export of the best network
  dicenas train runs/quickstart --data cifar10 --recipe cifar --out net    its best network, trained for real
  dicenas export runs/quickstart --out mynet    take a network away as plain PyTorch
  dicenas profile dicenet_100                   what each block of a network costs
  dicenas latency build configs/quickstart.yaml --out laptop.json    a latency table of this machine
  dicenas ops                                   what blocks can be made of
  dicenas segment WEIGHTS cats.jpg --out s.png  what a published network sees in a photo
  dicenas COMMAND --help                        all that a command can do, with examples
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        Exit status: 0, 2 for bad input, 130 where Ctrl-C ended the command.

    Raises:
        SystemExit: The arguments are wrong (status 2), or help or the version was asked for (status 0).
    """
    parser = _parser()
    args = parser.parse_args(argv)
    if "run" not in args:
        parser.print_help(sys.stderr)
        return 2
    program = f"{parser.prog} {args.command}"
    try:
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted{args.after_interrupt}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader went away, as `| head` does: nothing is left to say, not even by the interpreter at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        if args.debug or (error.name or "").partition(".")[0] == "dicenas":
            raise
        message = f"{error.name} is not installed; pip install 'dicenas[all]' brings what all commands need"
        print(f"{program}: error: {message}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        if args.debug:
            raise
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dicenas",
        description="Neural architecture search with DiCE units among the candidate operations.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dicenas {__version__}")
    parser.set_defaults(after_interrupt="")
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(subparsers)
    for subparser in subparsers.choices.values():
        subparser.formatter_class = argparse.RawDescriptionHelpFormatter
        subparser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser
