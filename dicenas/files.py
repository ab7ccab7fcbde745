"""Writing files so that a reader never meets half of one."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

__all__ = ["atomic_write_bytes", "atomic_write_text", "remove_unfinished", "sync_folder"]


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path``: the whole file appears, or the previous one stays.

    The bytes go to a temporary file in the same folder, reach the disk, and take the name in one step.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``: the whole file appears, or the previous one stays."""
    atomic_write_bytes(path, text.encode("utf-8"))


def remove_unfinished(path: str | Path) -> None:
    """Remove what was written towards ``path`` by processes that were killed; no process may be writing it."""
    path = Path(path)
    for temporary in path.parent.glob(f".{path.name}." + 16 * "[0-9a-f]"):
        temporary.unlink(missing_ok=True)


def sync_folder(path: str | Path) -> None:
    """Bring the names of the files in a folder to the disk, where the system can do that for a folder."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot do it for folders
            raise
    finally:
        os.close(descriptor)
