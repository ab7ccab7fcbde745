"""Readers of single values: each returns the value, or raises ``ValueError`` with what it expected."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeAlias, cast

from dicenas.evaluation import PROXIES
from dicenas.export import FORMATS
from dicenas.nets import list_nets
from dicenas.spelling import did_you_mean

__all__ = [
    "Reader",
    "ascending",
    "device",
    "flag",
    "formats",
    "integer",
    "name",
    "networks",
    "number",
    "one_of",
    "optional",
    "path",
    "proxies",
    "trial",
]

Reader: TypeAlias = Callable[[Any], Any]


def name(value: Any) -> str:
    """Read a name that can be a folder's."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise ValueError("a name of letters, digits, '.', '_' and '-', usable as a folder")
    return value


def integer(minimum: int) -> Reader:
    """Return a reader of integers of at least ``minimum``."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ValueError(f"an integer of at least {minimum}")
        return value

    return read


def ascending(minimum: int) -> Reader:
    """Return a reader of lists of ascending integers of at least ``minimum``."""

    def read(value: Any) -> tuple[int, ...]:
        numbers = value if isinstance(value, list | tuple) else [None]
        whole = all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
        if not whole or any(a >= b for a, b in pairwise([minimum - 1, *numbers])):
            raise ValueError(f"a list of ascending integers of at least {minimum}")
        return tuple(numbers)

    return read


def number(minimum: float = 0.0, maximum: float = math.inf, *, above: bool = False) -> Reader:
    """Return a reader of numbers from ``minimum`` to ``maximum``, greater than ``minimum`` where ``above`` is set."""
    bound = "greater than" if above else "of at least"
    expected = f"a number {bound} {minimum:g}" + ("" if maximum == math.inf else f" and at most {maximum:g}")

    def read(value: Any) -> float:
        # YAML 1.1 takes 60.0e6 for text, since its exponent has no sign.
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not minimum <= number <= maximum or (above and number == minimum) or math.isinf(number):
            raise ValueError(expected)
        return number

    return read


def flag(value: Any) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def one_of(*names: str) -> Reader:
    """Return a reader of one of some names."""

    def read(value: Any) -> Any:
        if value not in names:
            raise ValueError(f"one of {', '.join(names)}{did_you_mean(value, names)}")
        return value

    return read


def optional(reader: Reader) -> Reader:
    """Return a reader that takes null as well."""

    def read(value: Any) -> Any:
        return None if value is None else reader(value)

    return read


def path(value: Any) -> str:
    """Read a path; whether it is there is checked where it is used."""
    if not isinstance(value, str) or not value:
        raise ValueError("a path")
    return value


def proxies(value: Any) -> tuple[str, ...]:
    """Read a list of zero-cost proxies."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"a list of proxies, some of {', '.join(PROXIES)}")
    for name in value:
        one_of(*PROXIES)(name)
    if len(set(value)) != len(value):
        raise ValueError("each proxy once")
    return tuple(value)


def device(value: Any) -> str:
    """Read the name of a device; whether this machine has it is checked where it is needed."""
    if not isinstance(value, str) or not re.fullmatch(r"cpu|cuda(:\d+)?", value):
        raise ValueError("a device: cpu, cuda or cuda:<number>")
    return value


def trial(value: Any) -> str | int:
    """Read ``best`` or the number of a trial."""
    if value == "best" or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return cast("str | int", value)
    raise ValueError("best, or the number of a trial")


def formats(value: Any) -> tuple[str, ...]:
    """Read a list of export formats."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"a list of formats, some of {', '.join(FORMATS)}")
    for name in value:
        one_of(*FORMATS)(name)
    return tuple(value)


def networks(value: Any) -> tuple[str, ...]:
    """Read a list of names of published networks and architecture files."""
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise ValueError("a list of names of networks, such as dicenet_100, and architecture files, which end in .json")
    for name in value:
        if not name.endswith(".json") and name not in list_nets():
            raise ValueError(f"names of networks, or files that end in .json{did_you_mean(name, list_nets())}")
    return tuple(value)
