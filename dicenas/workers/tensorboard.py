"""A search as scalars for TensorBoard, in the folder ``tensorboard`` of the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from dicenas.events import Event
from dicenas.pareto import Direction

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["Scalars"]


class Scalars:
    """Writes events as scalars: metrics of each trial over its number, and what is reported on the way over its step.

    Args:
        folder: Where TensorBoard looks.
        objectives: Direction of each objective; the best value so far of each is drawn too.

    Raises:
        ValueError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, objectives: Mapping[str, Direction]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError(
                f"TensorBoard is not installed ({error}); pip install 'dicenas[distributed]' brings it"
            ) from error
        self._writer: SummaryWriter = SummaryWriter(str(folder))
        self._best_of = {name: max if direction == "maximize" else min for name, direction in objectives.items()}
        self._best: dict[str, float] = {}

    def __enter__(self) -> Scalars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def write(self, event: Event) -> None:
        """Write an event, where it has metrics."""
        if event["event"] == "step":
            for name, value in event["metrics"].items():
                self._writer.add_scalar(f"trial_{event['trial']}/{name}", value, event["step"])
        elif event["event"] == "trial_ended" and event["state"] == "complete":
            for name, value in event["metrics"].items():
                self._writer.add_scalar(f"trials/{name}", value, event["trial"])
                if name in self._best_of:
                    self._best[name] = self._best_of[name](self._best.get(name, value), value)
                    self._writer.add_scalar(f"best/{name}", self._best[name], event["trial"])
            self._writer.flush()
