from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dicenas.evaluation.sampling import balanced_subset, stratified_split

SEEDS = st.integers(0, 1000)
LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=80).map(torch.tensor)


@given(labels=LABELS, limit=st.integers(1, 100), seed=SEEDS)
def test_balanced_subset_takes_equally_from_every_class(labels: torch.Tensor, limit: int, seed: int) -> None:
    chosen = balanced_subset(labels, limit, seed)
    assert len(chosen) == min(limit, len(labels))
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    available = torch.bincount(labels, minlength=5)
    taken = torch.bincount(labels[chosen], minlength=5)
    most = int(taken.max())
    # A class that has given less than the others by two or more has nothing left.
    assert all(taken[c] >= most - 1 or taken[c] == available[c] for c in range(5))


@given(labels=LABELS, limit=st.integers(1, 79), seed=SEEDS)
def test_balanced_subset_grows_with_its_limit(labels: torch.Tensor, limit: int, seed: int) -> None:
    smaller = set(balanced_subset(labels, limit, seed).tolist())
    assert smaller <= set(balanced_subset(labels, limit + 1, seed).tolist())


def test_balanced_subset_depends_on_the_seed() -> None:
    labels = torch.arange(100) % 5
    assert torch.equal(balanced_subset(labels, 20, 1), balanced_subset(labels, 20, 1))
    assert not torch.equal(balanced_subset(labels, 20, 1), balanced_subset(labels, 20, 2))


@given(
    counts=st.lists(st.integers(2, 40), min_size=2, max_size=5),
    fraction=st.floats(0.01, 0.99),
    seed=SEEDS,
)
def test_stratified_split_has_every_class_on_both_sides(counts: list[int], fraction: float, seed: int) -> None:
    labels = torch.cat([torch.full((count,), index) for index, count in enumerate(counts)])
    first, second = stratified_split(labels, fraction, seed)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(len(labels)))
    for count, kept, held_out in zip(
        counts, torch.bincount(labels[first]), torch.bincount(labels[second]), strict=True
    ):
        assert kept >= 1
        assert held_out >= 1
        # In proportion, but for rounding and for the one image that each side must have.
        assert abs(held_out - fraction * count) <= max(2, 0.05 * count)
