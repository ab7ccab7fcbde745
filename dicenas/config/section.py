"""Reading a section of a configuration: what is wrong keeps its default, and every mistake is reported."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

from dicenas.config.values import Reader
from dicenas.spelling import did_you_mean

__all__ = ["as_section", "check_keys", "read_value", "read_values"]

_Section = TypeVar("_Section")


def as_section(name: str, given: Any, keys: Iterable[str], problems: list[str]) -> Mapping[str, Any]:
    """Return a section as a mapping, an empty one where it is not given; what is wrong with it or its keys is reported.

    Args:
        name: Name of the section.
        given: What stands under that name.
        keys: Keys that it may have.
        problems: Takes a line for each mistake.
    """
    known = tuple(keys)
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        problems.append(f"{name} = {given!r:.80}: expected a mapping with the keys {', '.join(known)}")
        return {}
    check_keys(f"{name}.", given, known, problems)
    return given


def read_values(
    kind: type[_Section],
    name: str,
    given: Mapping[str, Any],
    readers: Mapping[str, Reader],
    problems: list[str],
    **fixed: Any,
) -> _Section:
    """Make a dataclass of the values of a section.

    Args:
        kind: The dataclass.
        name: Name of the section.
        given: The section; keys without a reader are passed over.
        readers: Reader of each key.
        problems: Takes a line for each mistake.
        **fixed: Fields that are no keys of the section.
    """
    fields = {declared.name: declared.default for declared in dataclasses.fields(cast(Any, kind))}
    arguments = dict(fixed)
    for key, reader in readers.items():
        default = fields[key]
        if default is dataclasses.MISSING:
            default = None
            if key not in given:
                problems.append(f"{name}.{key} is missing")
        arguments[key] = read_value(f"{name}.{key}", given[key], reader, problems, default) if key in given else default
    try:
        return kind(**arguments)
    except ValueError as error:  # a dataclass that checks its values itself
        problems += [f"{name}.{line}" for line in str(error).splitlines()]
        return kind(**fixed)


def check_keys(prefix: str, given: Mapping[Any, Any], known: tuple[str, ...], problems: list[str]) -> None:
    """Report keys that are not known."""
    problems += [
        f"unknown key {prefix}{key}{did_you_mean(key, known)} (known: {', '.join(known)})"
        for key in given
        if key not in known
    ]


def read_value(key: str, given: Any, reader: Reader, problems: list[str], default: Any) -> Any:
    """Read one value; a mistake is reported, and gives the default."""
    try:
        return reader(given)
    except (ValueError, RuntimeError) as error:
        problems.append(f"{key} = {given!r:.80}: expected {error}")
        return default
