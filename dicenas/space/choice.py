"""What a space leaves open, one thing at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Choice", "Sample", "Value"]

Value: TypeAlias = str | int | float
#: A value for each active label of a space, as NNI and Optuna know a point of it.
Sample: TypeAlias = dict[str, Value]


@dataclass(frozen=True)
class Choice:
    """One thing a space leaves open.

    Attributes:
        label: Name of the choice, such as ``"width"``, ``"s1_depth"`` or ``"s1_b0"`` (block 0 of stage 1).
        values: What may be chosen.
        condition: ``None`` where the choice is always active; else a label and the values of it for which it is.
    """

    label: str
    values: tuple[Value, ...]
    condition: tuple[str, tuple[Value, ...]] | None = None

    def active(self, sample: Mapping[str, Value]) -> bool:
        """Return whether the choice matters, given the choices before it."""
        return self.condition is None or sample.get(self.condition[0]) in self.condition[1]
