"""Writing files so that a reader never meets half of one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "CHECKSUM",
    "SUMS",
    "atomic_write_bytes",
    "atomic_write_text",
    "check_sum",
    "read_json",
    "remove_unfinished",
    "sync_folder",
    "write_json",
    "write_sums",
]

#: Key of the checksum in a file of JSON; what is written there has no such key of its own.
CHECKSUM = "sha256"
#: Name of the file with the checksums of a folder, in the form that ``sha256sum --check`` reads.
SUMS = "SHA256SUMS"


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


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as JSON, its checksum as the last key: the whole file appears, or the previous one stays."""
    atomic_write_text(path, json.dumps({**content, CHECKSUM: _json_sum(content)}, indent=2) + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read what :func:`write_json` wrote; a file without a checksum, such as one written by hand, is read too.

    Raises:
        ValueError: The file is damaged; the message names it.
        OSError: It cannot be read.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no mapping")
        kept = content.pop(CHECKSUM, None)
        if kept is not None and kept != _json_sum(content):
            raise ValueError(f"its checksum is that of other content; without {CHECKSUM!r} it is read as it is")
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return content


def _json_sum(content: Mapping[str, Any]) -> str:
    """Return a checksum of what JSON makes of a mapping, whatever the order of its keys."""
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def write_sums(folder: str | Path) -> None:
    """Bring the files of a new folder, and of those in it, to the disk, and write their checksums to :data:`SUMS`."""
    folder = Path(folder)
    lines = []
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
            continue
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(folder).as_posix()}\n")
            os.fsync(file.fileno())
    atomic_write_text(folder / SUMS, "".join(lines))


def check_sum(path: str | Path) -> None:
    """Check a file against the checksums of its folder; one that these do not name, or without them, passes.

    Raises:
        ValueError: It is another file than the one that was written, or the checksums are damaged.
        OSError: It cannot be read.
    """
    path = Path(path)
    sums = path.with_name(SUMS)
    if not sums.is_file():
        return
    lines = sums.read_bytes().splitlines()
    for line in lines:
        kept, _, name = line.partition(b"  ")
        if name == path.name.encode():
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if kept != found.encode():
                raise ValueError(
                    f"{path} is damaged: its checksum is not that in {sums}; where it was changed on purpose, remove "
                    "its line there"
                )


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
