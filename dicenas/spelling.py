"""Suggestions for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean"]


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` where a known name is close to ``given``, else an empty string."""
    match = difflib.get_close_matches(str(given), list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""
