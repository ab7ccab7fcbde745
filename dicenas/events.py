"""What happens in a run: one JSON line an event in the run folder, and the same to whoever watches."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["Event", "EventLog", "finite", "read_events"]

#: An event by its keys; ``time`` (seconds since 1970), ``event`` and ``worker`` are always there.
Event: TypeAlias = Mapping[str, Any]


class EventLog:
    """Appends events to a file that other processes append to as well.

    Args:
        path: The file, made where it is missing.
        worker: Place of this process among the workers, from 0; ``None`` for one that watches them.
        watch: Takes each event too.
    """

    def __init__(self, path: Path, worker: int | None = 0, watch: Callable[[Event], None] | None = None) -> None:
        self._path = path
        self._worker = worker
        self._watch = watch

    def write(self, event: str, **details: Any) -> None:
        """Append an event."""
        entry = {"time": round(time.time(), 3), "event": event, "worker": self._worker, **details}
        _append(self._path, json.dumps(entry).encode())
        if self._watch is not None:
            self._watch(entry)


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return metrics for an event, without those that JSON has no number for."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def _append(path: Path, line: bytes) -> None:
    # One write to the end of the file, so that lines of several processes do not mix.
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        # Somebody may have been killed in the middle of a line.
        start = b"\n" if size and os.pread(descriptor, 1, size - 1) != b"\n" else b""
        os.write(descriptor, start + line + b"\n")
    finally:
        os.close(descriptor)


def read_events(data: bytes) -> Iterator[Event]:
    """Yield the events in lines of JSON; one that was cut off by a kill is passed over."""
    for line in data.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            yield event
