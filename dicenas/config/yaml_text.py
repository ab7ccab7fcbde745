"""YAML text of a configuration, in which no key may be given twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

__all__ = ["read_yaml"]


def read_yaml(text: str) -> tuple[Any, list[str]]:
    """Read YAML of plain data, and say which keys are given twice, where PyYAML takes the last one in silence.

    Returns:
        The data, and a line for each such key.

    Raises:
        yaml.YAMLError: The text is no YAML, or holds more than plain data.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        repeated = [] if node is None else list(_repeated(node, "", set()))
        return (None if node is None else loader.construct_document(node)), repeated
    finally:
        loader.dispose()


def _repeated(node: yaml.Node, path: str, seen: set[int]) -> Iterator[str]:
    if id(node) in seen:  # an alias, which may even stand within what it stands for
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated(item, path, seen)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            if name in lines:
                yield f"{path}{name} is given twice, in line {lines[name]} and in line {line}"
            lines[name] = line
        yield from _repeated(value, f"{path}{name}.", seen)
