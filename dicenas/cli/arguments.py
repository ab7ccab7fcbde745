"""Arguments that several commands take."""

from __future__ import annotations

import argparse
from typing import TypeAlias

__all__ = ["Subparsers", "non_negative_int", "positive_int", "trial"]

#: What the ``add_parser`` of a command adds it to.
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def positive_int(text: str) -> int:
    """Read an integer of at least 1."""
    return _integer(text, 1)


def non_negative_int(text: str) -> int:
    """Read an integer of at least 0."""
    return _integer(text, 0)


def trial(text: str) -> str | int:
    """Read ``best`` or the number of a trial."""
    if text == "best":
        return text
    try:
        return _integer(text, 0)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither 'best' nor the number of a trial") from error


def _integer(text: str, minimum: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = minimum - 1
    if value < minimum:
        raise argparse.ArgumentTypeError(f"{text!r} is no integer of at least {minimum}")
    return value
