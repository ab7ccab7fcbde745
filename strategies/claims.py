"""What keeps several processes that work on one study from evaluating the same architecture."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Claims"]


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
