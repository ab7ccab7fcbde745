"""Colours of ops: readable for colour-blind people, and the same op has the same colour in every report."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["KIND_COLORS", "NEUTRAL", "op_colors", "split_candidate"]

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

_CANDIDATE = re.compile(r"(.+)_k(\d+)")


def split_candidate(candidate: str) -> tuple[str, int | None]:
    """Return op and kernel size of a candidate, without asking the registry.

    The report of a run must not depend on whether the user's own ops are registered in this process.
    """
    match = _CANDIDATE.fullmatch(candidate)
    return (match[1], int(match[2])) if match else (candidate, None)


def op_colors(candidates: Iterable[str]) -> dict[str, str]:
    """Return the colour of each op among the candidates, in the order of a legend."""
    ops = {split_candidate(candidate)[0] for candidate in candidates}
    colors = {op: color for op, color in _FIXED.items() if op in ops}
    further = sorted(ops - set(_FIXED))
    return colors | {op: _FURTHER[i % len(_FURTHER)] for i, op in enumerate(further)}
