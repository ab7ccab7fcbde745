"""Shards: tar files in WebDataset's form and Hugging Face's parquet files.

A shard's index (where each image lies, and its class) is made when it is opened, from headers and labels alone.
"""

from __future__ import annotations

import json
import os
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from dicenas.evaluation.folders import IMAGE_EXTENSIONS

__all__ = ["ParquetShard", "Shard", "TarShard"]

_GZIP = b"\x1f\x8b"


class Shard(ABC):
    """One file of labelled images.

    Attributes:
        path: The file.
        labels: Class of each image in the order in which they lie.
        class_names: Names of the classes, where the file has them.
    """

    path: Path
    labels: Sequence[int]
    class_names: tuple[str, ...] | None = None

    @abstractmethod
    def read(self, wanted: Sequence[int]) -> Iterator[bytes]:
        """Read images one after the other.

        Args:
            wanted: Numbers of the images, rising.
        """

    def where(self, number: int) -> str:
        """Return what to call an image in a message."""
        return f"{self.path}: image {number}"


class TarShard(Shard):
    """A tar file in WebDataset's form: ``KEY.jpg`` with ``KEY.cls`` (a class index) beside it.

    ``KEY.json`` with a ``label`` serves in place of ``KEY.cls``.

    Raises:
        ValueError: The file is no plain tar, is cut off, or an image has no class.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _require_end(path)
        images: dict[str, tuple[int, int]] = {}
        labels: dict[str, int] = {}
        try:
            # "r:" takes no compression: in a compressed tar no image could be found without reading all before it.
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    if not member.isfile():
                        continue
                    name = PurePosixPath(member.name)
                    # WebDataset's key ends at the first point of the file's name.
                    key, _, suffix = name.name.partition(".")
                    key, suffix = str(name.with_name(key)), suffix.lower()
                    if f".{suffix}" in IMAGE_EXTENSIONS:
                        images[key] = member.offset_data, member.size
                    elif suffix in ("cls", "json"):
                        content = archive.extractfile(member)
                        assert content is not None  # it is a file
                        labels[key] = _label(content.read(), suffix)
        except (tarfile.TarError, ValueError, EOFError) as error:
            raise ValueError(f"{path}: not a plain tar file of images and classes: {error}") from error
        if lacking := [key for key in images if key not in labels]:
            raise ValueError(f"{path}: {lacking[0]} has no class ({lacking[0]}.cls with its index)")
        if not images:
            raise ValueError(f"{path}: holds no images")
        self._names = list(images)
        self._places = torch.tensor(list(images.values()))
        self.labels = [labels[key] for key in images]

    def read(self, wanted: Sequence[int]) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            for number in wanted:
                offset, length = self._places[number].tolist()
                file.seek(offset)
                yield file.read(length)

    def where(self, number: int) -> str:
        return f"{self.path}:{self._names[number]}"


class ParquetShard(Shard):
    """A parquet file in Hugging Face's form: a column of images with ``bytes`` in it, and a column of class indices.

    Raises:
        ValueError: The file cannot be read, or has no such columns.
    """

    def __init__(self, path: Path) -> None:
        parquet = _parquet()
        self.path = path
        try:
            file = parquet.ParquetFile(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: cannot be read: {error}") from error
        with file:
            columns = file.schema_arrow.names
            image = next((name for name in ("image", "img") if name in columns), None)
            label = next((name for name in ("label", "labels", "fine_label", "cls") if name in columns), None)
            if image is None or label is None:
                raise ValueError(f"{path}: has columns {', '.join(columns)}, expected image and label")
            self._image = image
            self._rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            self.labels = file.read([label]).column(0).to_pylist()
            self.class_names = _hugging_face_names(file.schema_arrow.metadata or {}, label)
        if any(not isinstance(value, int) for value in self.labels):
            raise ValueError(f"{path}: column {label} should hold class indices")

    def read(self, wanted: Sequence[int]) -> Iterator[bytes]:
        numbers = iter(wanted)
        number = next(numbers, None)
        with _parquet().ParquetFile(self.path) as file:
            first = 0
            for group, rows in enumerate(self._rows):
                # A group is read only if something in it is wanted, and only one is held at a time.
                if number is not None and number < first + rows:
                    column = file.read_row_group(group, columns=[self._image]).column(0)
                    while number is not None and number < first + rows:
                        value = column[number - first].as_py()
                        data = value.get("bytes") if isinstance(value, dict) else value
                        if not isinstance(data, bytes):
                            raise ValueError(f"{self.where(number)}: no bytes in column {self._image}")
                        yield data
                        number = next(numbers, None)
                first += rows


def _require_end(path: Path) -> None:
    """Check that a tar file has its end, which tarfile itself does not miss."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - tarfile.BLOCKSIZE))
        tail = file.read()
        file.seek(0)
        if file.read(2) != _GZIP and tail != tarfile.NUL * tarfile.BLOCKSIZE:
            raise ValueError(f"{path}: is cut off, or is no tar file")


def _label(content: bytes, suffix: str) -> int:
    label = json.loads(content)
    if suffix == "json":
        label = label.get("label") if isinstance(label, dict) else None
    if not isinstance(label, int):
        raise ValueError(f"a class is {label!r}, expected its index")
    return label


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError("parquet files need pyarrow: pip install 'dicenas[parquet]'") from error
    return pyarrow.parquet


def _hugging_face_names(metadata: dict[bytes, bytes], column: str) -> tuple[str, ...] | None:
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names = features.get(column, {}).get("names")
    return None if names is None else tuple(map(str, names))
