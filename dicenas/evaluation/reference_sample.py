"""Ranks among a random sample of a space: what makes scores of different proxies comparable."""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Mapping, Sequence

from dicenas.architecture import Architecture

__all__ = ["Rank", "ReferenceSample"]


class ReferenceSample:
    """The scores of a random sample of a space.

    Args:
        architectures: The sample.
        scores: Scores of each, by proxy.
        proxies: Names of the proxies.

    Attributes:
        scores: Mean rank of each network, the highest first.

    Raises:
        ValueError: A proxy has the same value for all of them.
    """

    def __init__(
        self, architectures: Sequence[Architecture], scores: Sequence[Mapping[str, float]], proxies: Sequence[str]
    ) -> None:
        self._ranks = {name: Rank(name, [score[name] for score in scores]) for name in proxies}
        ranked = sorted(zip(map(self.score, scores), architectures, strict=True), key=lambda pair: -pair[0])
        self.scores = {architecture: score for score, architecture in ranked}
        self._ascending = sorted(score for score, _ in ranked)

    def score(self, scores: Mapping[str, float]) -> float:
        """Return the mean of the ranks of a network's scores."""
        return statistics.fmean(rank(scores[name]) for name, rank in self._ranks.items())

    def share_above(self, score: float) -> float:
        """Return the share of the sample with a higher mean rank."""
        return (len(self._ascending) - bisect.bisect_right(self._ascending, score)) / len(self._ascending)


class Rank:
    """Where a score stands among those of a sample: 0 at its lowest, 1 at its highest, linear from one to the next.

    Beyond its ends it goes on as from the middle one of the different scores to the end.

    Args:
        proxy: Name of the scores.
        scores: The sample's, two or more.

    Raises:
        ValueError: All scores are the same.
    """

    def __init__(self, proxy: str, scores: Sequence[float]) -> None:
        ascending = sorted(scores)
        last = len(ascending) - 1
        self._values = sorted(set(scores))
        if len(self._values) == 1:
            raise ValueError(
                f"proxy {proxy} is {ascending[0]:g} for all {len(scores)} networks of the reference sample: "
                "it cannot rank this space; take another one"
            )
        # Networks of the same score share the middle of their places.
        self._ranks = [
            (bisect.bisect_left(ascending, value) + bisect.bisect_right(ascending, value) - 1) / 2 / last
            for value in self._values
        ]

    def __call__(self, score: float) -> float:
        values, count = self._values, len(self._values)
        place = bisect.bisect_left(values, score)
        if place == 0:
            return self._on_line(0, max(1, count // 2), score)
        if place == count:
            return self._on_line(min(count - 2, count // 2), count - 1, score)
        return self._on_line(place - 1, place, score)

    def _on_line(self, left: int, right: int, score: float) -> float:
        """Return the rank of a score on the line through two scores of the sample, taken from its nearer end."""
        slope = (self._ranks[right] - self._ranks[left]) / (self._values[right] - self._values[left])
        nearer = left if score <= self._values[left] else right
        return self._ranks[nearer] + slope * (score - self._values[nearer])
