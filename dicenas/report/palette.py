"""Colours of ops: readable for colour-blind people, and the same op has the same colour in every report."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["KIND_COLORS", "NEUTRAL", "NameParts", "op_colors", "split_candidate", "split_name"]

#: Colour of what is no op, and of ``skip``.
NEUTRAL = "#888888"

# Okabe and Ito's colours, but for the black and the yellow that light and dark pages swallow.
_FIXED = {"separable": "#0072b2", "separable_se": "#009e73", "dice": "#d55e00", "skip": NEUTRAL}
_FURTHER = ("#cc79a7", "#e69f00", "#56b4e9")

#: Colours of the kinds of layers, :data:`dicenas.cost.LAYER_KINDS`.
KIND_COLORS = {
    "standard": "#e69f00",
    "point-wise": "#0072b2",
    "efficient": "#d55e00",
    "linear": "#56b4e9",
    "other": "#b3b3b3",
}

_NAME = re.compile(r"(?P<op>.+?)(_k(?P<k>\d+))?(_e(?P<expansion>\d+(\.\d+)?)(_(?P<activation>[a-z][a-z0-9_]*))?)?")


class NameParts(NamedTuple):
    """What the name of a block is made of.

    Attributes:
        op: The op.
        kernel_size: Its kernel size, where it has several.
        expansion: The expansion, where the backbone has a choice of it.
        activation: The activation, where it is not that of the stage.
    """

    op: str
    kernel_size: int | None = None
    expansion: str | None = None
    activation: str | None = None

    @property
    def candidate(self) -> str:
        """Name of the candidate op."""
        return self.op if self.kernel_size is None else f"{self.op}_k{self.kernel_size}"


def split_name(name: str) -> NameParts:
    """Return what the name of a block is made of, without asking the registry.

    The report of a run must not depend on whether the user's own ops are registered in this process.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return NameParts(name)
    return NameParts(match["op"], int(match["k"]) if match["k"] else None, match["expansion"], match["activation"])


def split_candidate(name: str) -> tuple[str, int | None]:
    """Return op and kernel size of a block, without asking the registry."""
    parts = split_name(name)
    return parts.op, parts.kernel_size


def op_colors(candidates: Iterable[str]) -> dict[str, str]:
    """Return the colour of each op among the candidates, in the order of a legend."""
    ops = {split_candidate(candidate)[0] for candidate in candidates}
    colors = {op: color for op, color in _FIXED.items() if op in ops}
    further = sorted(ops - set(_FIXED))
    return colors | {op: _FURTHER[i % len(_FURTHER)] for i, op in enumerate(further)}
