"""Trainings of a search that were cut off, and what the next attempt goes on from."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dicenas.evaluation.checkpoint import read_checkpoint, require_same, write_checkpoint
from dicenas.files import remove_unfinished

__all__ = ["CHECKPOINT_SECONDS", "HalfTrained"]

logger = logging.getLogger(__name__)

#: Least seconds between two checkpoints of a training in a search. What a kill costs is that and an epoch at most, and
#: trainings of seconds write nothing.
CHECKPOINT_SECONDS = 30.0


class HalfTrained:
    """The checkpoint of one short training: written now and then, read by the next attempt, gone with the training.

    One process trains an architecture at a time, so that nobody else writes the file. A file that is torn, damaged or
    of another training is passed over with a warning.

    Args:
        path: The file, which need not exist; ``None`` keeps nothing.
        training: Returns what training this is, plain data; called once it matters.
        seconds: Least seconds between two checkpoints.

    Attributes:
        state: What the last attempt left, ``None`` where there is nothing to go on from.
        notes: Numbers that are kept with each checkpoint: those of the last attempt, or what the caller sets.
    """

    def __init__(
        self, path: Path | None, training: Callable[[], Mapping[str, Any]], *, seconds: float = CHECKPOINT_SECONDS
    ) -> None:
        self._path = path
        self._training = training
        self._seconds = seconds
        self._written = time.monotonic()
        kept = self._read()
        self.state: Mapping[str, Any] | None = None if kept is None else kept["state"]
        self.notes: Mapping[str, float] = {} if kept is None else kept["notes"]

    def keep(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, unless there was one a short while ago.

        Args:
            state: Tensors and plain data.
        """
        if self._path is None or time.monotonic() - self._written < self._seconds:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_checkpoint(self._path, self._training(), {"state": dict(state), "notes": dict(self.notes)})
        except OSError as error:  # a full disk, say: the training itself needs no checkpoint
            logger.warning("no checkpoint of a training was written: %s", error)
        self._written = time.monotonic()

    def discard(self) -> None:
        """Remove the checkpoint: the training is at its end."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any] | None:
        if self._path is None:
            return None
        remove_unfinished(self._path)
        if not self._path.is_file():
            return None
        try:
            found, state = read_checkpoint(self._path)
            require_same(self._path, found, self._training())
        except ValueError as error:
            logger.warning("%s\nThe checkpoint is passed over, and the network trained from the start.", error)
            self.discard()
            return None
        return state
