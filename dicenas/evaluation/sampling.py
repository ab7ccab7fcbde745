"""Choosing images by class: balanced subsets and stratified splits, fixed by their seed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["balanced_subset", "stratified_split"]


def balanced_subset(labels: Tensor, limit: int, seed: int = 0) -> Tensor:
    """Choose ``limit`` images, as many of each class as of any other.

    A class that has too few gives all that it has, and the others share the rest. Any two of the others
    differ by one image at most. A smaller ``limit`` with the same seed chooses a subset of the same images.

    Args:
        labels: Class indices, shape ``(N,)``.
        limit: Number of images; all are chosen where there are no more.
        seed: Fixes the choice.

    Returns:
        The chosen positions in ``labels`` in rising order, shape ``(min(limit, N),)``.
    """
    ranks = _ranks_in_class(labels, seed)
    return ranks.argsort(stable=True)[:limit].sort().values


def stratified_split(labels: Tensor, fraction: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Split images in two, each class in the same proportion.

    Args:
        labels: Class indices, shape ``(N,)``; every class has two images or more.
        fraction: Share of the images that goes to the second part, between 0 and 1. Each part gets one image
            of each class at least.
        seed: Fixes the split.

    Returns:
        The positions of the first and of the second part, each in rising order.
    """
    ranks = _ranks_in_class(labels, seed)
    counts = torch.bincount(labels)
    # The images of a class lie evenly spread over [0, 1], whatever its size: those up to a threshold are the
    # same share of each class. The ends hold one image of each class on either side of any threshold.
    places = (ranks + 0.5) / counts[labels]
    places[ranks == 0] = 0
    places[ranks == counts[labels] - 1] = 1
    classes = int((counts > 0).sum())
    size = min(max(math.ceil(fraction * len(labels)), classes), len(labels) - classes)
    order = places.argsort(stable=True)
    return order[size:].sort().values, order[:size].sort().values


def _ranks_in_class(labels: Tensor, seed: int) -> Tensor:
    """Number the images of each class 0, 1, 2, ... in an order drawn from ``seed``."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    counts = torch.bincount(labels)
    first = (counts.cumsum(0) - counts)[labels[by_class]]
    ranks = torch.empty_like(labels)
    ranks[by_class] = torch.arange(len(labels)) - first
    return ranks
