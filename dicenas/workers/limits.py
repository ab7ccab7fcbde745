"""What ends an evaluation from outside: its time, and the memory of its process."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

__all__ = ["Limits", "memory_mb"]

# Where no limit is given, an evaluation is ended before the system ends something of its own choice.
_SHARE_OF_MEMORY = 0.9


@dataclass(frozen=True)
class Limits:
    """Limits of an evaluation, held by a process that watches the one that evaluates.

    Attributes:
        time_s: Seconds after which it has failed; ``None`` for no limit.
        memory_mb: Megabytes (10^6 bytes) that its process may hold resident, with its own children; ``None`` for nine
            tenths of the machine's.

    Raises:
        ValueError: A limit is not above 0.
    """

    time_s: float | None = None
    memory_mb: float | None = None

    def __post_init__(self) -> None:
        for name in ("time_s", "memory_mb"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"limit {name} {value!r} should be above 0")

    @property
    def wanted(self) -> bool:
        """Whether somebody asked for a limit."""
        return self.time_s is not None or self.memory_mb is not None

    def broken(self, seconds: float, megabytes: float) -> str | None:
        """Return which limit an evaluation breaks, in words; ``None`` for none."""
        if self.time_s is not None and seconds > self.time_s:
            return f"time limit: not done after {self.time_s:g} s"
        most = self.memory_mb or _SHARE_OF_MEMORY * psutil.virtual_memory().total / 1e6
        if megabytes > most:
            return f"memory limit: its process holds {megabytes:,.0f} MB, and may hold {most:,.0f}"
        return None


def memory_mb(pid: int) -> float:
    """Return what a process and those that it started hold resident, in megabytes; 0 for one that has ended."""
    try:
        process = psutil.Process(pid)
        processes = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    total = 0
    for each in processes:
        try:
            total += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6
