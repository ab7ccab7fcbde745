"""Writing files so that a reader never meets half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["atomic_write_bytes", "atomic_write_text"]


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path``: the whole file appears, or the previous one stays.

    The bytes go to a temporary file in the same folder, reach the disk, and take the name in one step.
    """
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``: the whole file appears, or the previous one stays."""
    atomic_write_bytes(path, text.encode("utf-8"))


def _umask() -> int:
    # mkstemp makes files private; results in a run folder should have the permissions of any other file.
    mask = os.umask(0)
    os.umask(mask)
    return mask
