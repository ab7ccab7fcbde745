"""MACs and parameters of many architectures of a space at once, and bounds on them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from dicenas.nets.backbone import BlockSpec, get_backbone
from dicenas.space import SpaceSpec
from dicenas.space.vectorized import BlockSums, VectorizedSpace
from dicenas.strategies.costs import CLOSED_FORMS

__all__ = ["ClosedForms"]


class ClosedForms:
    """Costs that follow from closed forms, for rows of a :class:`~dicenas.space.vectorized.VectorizedSpace`.

    Args:
        space: The space.
        bounds: Upper bounds by name of cost, ``macs`` and ``params``.
        image_size: Image size at which architectures are counted; each one's own by default.

    Attributes:
        space: The space.
        bounds: The bounds.
    """

    def __init__(
        self, space: SpaceSpec, bounds: Mapping[str, float] | None = None, image_size: int | None = None
    ) -> None:
        self.space = space
        self.bounds = dict(bounds or {})
        self._image_size = image_size

    @property
    def vectorized(self) -> VectorizedSpace:
        """Architectures as rows."""
        return _prepared(self.space, self._image_size)[0]

    def costs(self, rows: Tensor) -> Tensor:
        """Return MACs and parameters ``(N, 2)`` of rows."""
        return _prepared(self.space, self._image_size)[1](rows)

    def met(self, rows: Tensor) -> Tensor:
        """Return which rows meet the bounds, ``(N,)``."""
        bounds = [self.bounds.get(name, float("inf")) for name in CLOSED_FORMS]
        return (self.costs(rows) <= torch.tensor(bounds, dtype=torch.float64)).all(1)


# Benchmarks make thousands of studies over one space.
@lru_cache(maxsize=8)
def _prepared(space: SpaceSpec, image_size: int | None) -> tuple[VectorizedSpace, BlockSums]:
    vectorized, family = VectorizedSpace(space, image_size), get_backbone(space.backbone)

    def costs(block: BlockSpec) -> list[float]:
        cost = family.block_cost(block)
        return [getattr(cost, name) for name in CLOSED_FORMS]

    return vectorized, vectorized.sums(costs)
