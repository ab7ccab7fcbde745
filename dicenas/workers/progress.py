"""What a terminal shows of a search: one line for all of it, and one for each worker."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm

from dicenas.events import Event

__all__ = ["Progress"]


class Progress:
    """Shows events as they come.

    Args:
        name: Name of the run.
        total: Trials of the whole study.
        done: Those that are finished.
        workers: How many workers have a line of their own; 0 shows the last trial behind the bar.
    """

    def __init__(self, name: str, total: int, done: int, workers: int = 0) -> None:
        self._bar = tqdm(total=total, initial=done, desc=name, unit="trial")
        # Lines that are redrawn are noise in a file.
        shown = range(workers if sys.stderr.isatty() else 0)
        self._lines = {n: tqdm(bar_format="{desc}", position=n + 1, desc=_line(n, "starting")) for n in shown}

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for line in self._lines.values():
            line.close()
        self._bar.close()

    def show(self, event: Event) -> None:
        """Show an event."""
        what, trial, worker = event["event"], event.get("trial"), event["worker"]
        said = ""
        if what == "trial_started":
            said = f"trial {trial}"
        elif what == "step":
            said = f"trial {trial}, step {event['step']}: {_shown(event)}"
        elif what == "trial_ended":
            said = f"trial {trial} {event['state']}: {event['error'] or _shown(event)}"
            self._bar.update()
            if not self._lines:
                self._bar.set_postfix_str(event["error"] or _shown(event))
        elif what in ("worker_started", "worker_ended", "worker_lost"):
            said = what.removeprefix("worker_")
        if said and worker in self._lines:
            self._lines[worker].set_description_str(_line(worker, said))


def _line(worker: int, said: str) -> str:
    return f"  worker {worker}: {said}"


def _shown(event: Event) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in list(event["metrics"].items())[:4])
