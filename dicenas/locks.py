"""Keeping a second process out of a folder that one is at work in."""

from __future__ import annotations

import datetime
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["LOCK", "FolderInUseError", "lock_folder"]

#: Name of the file in a folder that is locked.
LOCK = ".lock"


class FolderInUseError(ValueError):
    """Another process is at work in a folder."""


@contextmanager
def lock_folder(path: Path, mark: Path, advice: str, *, patience_s: float = 0.0) -> Iterator[None]:
    """Keep others out of a folder for as long as this process, or one that it forked, lives.

    The folder is made where it is missing. It goes again where nothing came into it, and so does the lock where
    ``mark`` is missing: the folder is somebody else's then.

    Args:
        path: The folder.
        mark: A file that is there where the folder is of the kind that is locked.
        advice: What to do where the folder is in use, for the message.
        patience_s: Seconds to wait for the other process.

    Raises:
        FolderInUseError: Another process has it; the message says which.
    """
    new = not path.exists()
    file = path / LOCK
    descriptor = _locked(file, advice, time.monotonic() + patience_s)
    try:
        since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {since}".encode(), 0)
        yield
    finally:
        # Before the lock is let go: behind that, it may be another process's.
        if not mark.is_file():
            file.unlink(missing_ok=True)
            if new and not any(path.iterdir()):
                path.rmdir()
        os.close(descriptor)


def _locked(file: Path, advice: str, deadline: float) -> int:
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(descriptor, file):
                return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip() or "another process"
                os.close(descriptor)
                raise FolderInUseError(f"{file.parent} is in use by {holder}; {advice}") from None
            time.sleep(0.1)
        os.close(descriptor)


def _is_same(descriptor: int, file: Path) -> bool:
    """Whether a file that is open still has its name: who held the lock may have taken it away."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False
