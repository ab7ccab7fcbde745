"""What keeps several processes that work on one study from evaluating the same architecture."""

from __future__ import annotations

from typing import Protocol

from dicenas.strategies.index import HASH, TrialIndex

__all__ = ["Claims", "StudyClaims"]


class Claims(Protocol):
    """Decides which of several workers evaluates an architecture."""

    def claim(self, architecture: str, trial: int) -> int | None:
        """Claim an architecture for a trial.

        Args:
            architecture: Its hash.
            trial: Number of the trial.

        Returns:
            ``None`` where the trial has it now, else the number of the trial that has it.
        """

    def release(self, architecture: str) -> None:
        """Give up a claim on an architecture that is not going to be evaluated."""


class StudyClaims:
    """Claims that the trials of a study carry themselves, in any storage of Optuna.

    A trial says what it is to evaluate, and then looks whether another one says so too: of two that do so at the same
    time both see it, or the later one does. Whoever sees it draws again.

    Args:
        index: The trials of the study.
    """

    def __init__(self, index: TrialIndex) -> None:
        self._index = index

    def claim(self, architecture: str, trial: int) -> int | None:
        self._index.set_user_attr(trial, HASH, architecture)
        self._index.refresh()
        return min(self._index.holders(architecture) - {trial}, default=None)

    def release(self, architecture: str) -> None:
        """Do nothing: a trial that ends holds nothing, and one that goes on says what it holds now."""
