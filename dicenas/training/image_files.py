"""Image files in folders and zip archives: their bytes, and what is in them."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["FolderFiles", "ZipFiles", "decode"]


class FolderFiles:
    """Files in a folder.

    Args:
        root: The folder.
        names: Their paths in it.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root = root
        self.names = names

    def marks(self) -> list[int]:
        """Return a number for each file that changes with it, as cheap as can be: its size in bytes."""
        return [(self.root / name).stat().st_size for name in self.names]

    def read(self, position: int) -> bytes:
        """Return a file's bytes."""
        return (self.root / self.names[position]).read_bytes()

    def where(self, position: int) -> str:
        """Return what to call a file in a message."""
        return str(self.root / self.names[position])


class ZipFiles:
    """Files in a zip archive; each process that reads them opens it for itself.

    Args:
        path: The archive.
        names: Their names in it.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path = path
        self.names = names
        self._open: zipfile.ZipFile | None = None

    def marks(self) -> list[int]:
        """Return a number for each file that changes with it: its checksum, which the archive has."""
        archive = self._archive()
        return [archive.getinfo(name).CRC for name in self.names]

    def read(self, position: int) -> bytes:
        """Return a file's bytes.

        Raises:
            ValueError: The archive is damaged there.
        """
        try:
            return self._archive().read(self.names[position])
        except (zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{self.where(position)}: {error}") from error

    def where(self, position: int) -> str:
        """Return what to call a file in a message."""
        return f"{self.path}:{self.names[position]}"

    def _archive(self) -> zipfile.ZipFile:
        if self._open is None:
            self._open = zipfile.ZipFile(self.path)
        return self._open

    def __getstate__(self) -> dict[str, Any]:
        # An open file cannot be shared: processes would move one another's position.
        return {**self.__dict__, "_open": None}


def decode(data: bytes, where: str) -> Any:
    """Decode an image file.

    Args:
        data: The file.
        where: What to call it in a message.

    Returns:
        PIL image, RGB.

    Raises:
        ValueError: It is no image, or is cut off or damaged.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    # Pillow's decoders raise any of these for damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"{where}: cannot be decoded: {error}") from error
