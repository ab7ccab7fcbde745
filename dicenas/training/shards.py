"""Shards: tar files in WebDataset's form and Hugging Face's parquet files, read in the order in which they lie.

A shard's index (where each image lies, and its class) is made when it is opened, from headers and labels alone. The
order of an epoch is planned from the indices: shards in random order, images shuffled within a window. Images are then
read one after the other, and each is handed out when its turn has come. What a process needs to go on in the middle
is the number of images that it has handed out; what was handed out is not read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from dicenas.evaluation.folders import IMAGE_EXTENSIONS
from dicenas.training.image_sets import Batch, ImageSet, Plan, decode, loaded, loader_options
from dicenas.training.transforms import Transform, derived_seed

__all__ = ["ParquetShard", "Shard", "ShardSet", "TarShard", "window_order"]

#: Images among which the next one is drawn.
WINDOW = 4096

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


class ShardSet(ImageSet):
    """Images in shards, read as a stream.

    Args:
        shards: The files.

    Raises:
        ValueError: A class index is negative.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = list(shards)
        self.labels = torch.tensor([label for shard in self.shards for label in shard.labels])
        if int(self.labels.min()) < 0:
            raise ValueError(f"{self.shards[0].path.parent}: a class index is negative, expected 0 or more")

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def digest(self) -> str:
        digest = hashlib.sha256(self.labels.numpy().tobytes())
        for shard in self.shards:
            digest.update(f"{shard.path.name}\0{shard.path.stat().st_size}\n".encode())
        return digest.hexdigest()

    def lanes(self, plan: Plan) -> int:
        """Number of streams that the shards are dealt out to: one for each worker of each process.

        Raises:
            ValueError: There are fewer shards.
        """
        lanes = plan.processes * max(1, plan.workers)
        if lanes > len(self.shards):
            raise ValueError(
                f"{len(self.shards)} shards for {plan.processes} processes with {plan.workers} workers each: each "
                "worker needs a shard of its own; take fewer workers or more shards"
            )
        return lanes

    def training_batches(self, plan: Plan, epoch: int, step: int, transform: Transform | None) -> Iterator[Batch]:
        assert transform is not None, "images in files have no size of their own"
        self.lanes(plan)
        stream = _Stream(self, plan, epoch, step * plan.accumulation, transform)
        return loaded(DataLoader(stream, batch_size=plan.micro_batch, **loader_options(plan)))

    def validation_batches(self, plan: Plan, transform: Transform | None) -> Iterator[Batch]:
        assert transform is not None, "images in files have no size of their own"
        stream = _Pass(self, plan, transform)
        return loaded(DataLoader(stream, batch_size=plan.micro_batch, **loader_options(plan)))


class _Stream(IterableDataset["tuple[Tensor, int] | str"]):
    """The training images of one lane, for as many batches as the process takes from it."""

    def __init__(self, images: ShardSet, plan: Plan, epoch: int, first: int, transform: Transform) -> None:
        self.images = images
        self.plan = plan
        self.epoch = epoch
        self.first = first
        self.transform = transform

    def __iter__(self) -> Iterator[tuple[Tensor, int] | str]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        # A loader asks worker 0 first. The lane whose turn it is must therefore be worker 0's.
        lane = (worker + self.first) % workers
        batches = self.plan.steps(len(self.images)) * self.plan.accumulation
        done, needed = (len(range(lane, count, workers)) * self.plan.micro_batch for count in (self.first, batches))
        position = self.plan.rank * workers + lane
        yield from self._lane(position, self.plan.processes * workers, done, needed)

    def _lane(self, lane: int, lanes: int, done: int, needed: int) -> Iterator[tuple[Tensor, int] | str]:
        """Hand out ``needed`` images of a lane but for the first ``done``; a lane that runs out begins anew."""
        start = 0
        for turn in range(needed):
            rng = random.Random(derived_seed(self.plan.seed, "shards", self.epoch, turn))
            shards = rng.sample(self.images.shards, len(self.images.shards))[lane::lanes]
            count = sum(len(shard.labels) for shard in shards)
            order = window_order(count, WINDOW, derived_seed(self.plan.seed, "window", self.epoch, turn, lane))
            order = order[max(0, done - start) : max(0, needed - start)]
            for number, (shard, image, data) in enumerate(_in_turn(shards, order), max(start, done)):
                seed = derived_seed(self.plan.seed, "image", self.epoch, lane, number)
                yield _decoded(shard, image, data, self.transform, seed)
            start += count
            if start >= needed:
                return


class _Pass(IterableDataset["tuple[Tensor, int] | str"]):
    """A share of all images, each once, in the order in which they lie."""

    def __init__(self, images: ShardSet, plan: Plan, transform: Transform) -> None:
        self.images = images
        self.plan = plan
        self.transform = transform

    def __iter__(self) -> Iterator[tuple[Tensor, int] | str]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        share, shares = self.plan.rank * workers + worker, self.plan.processes * workers
        for shard in self.images.shards:
            wanted = range(share, len(shard.labels), shares)
            for number, data in zip(wanted, shard.read(wanted), strict=True):
                yield _decoded(shard, number, data, self.transform, 0)


def window_order(count: int, window: int, seed: int) -> list[int]:
    """Return the order that a shuffle within a window gives.

    A reader keeps up to ``window`` images, draws one of them, and reads the next one in its place.

    Args:
        count: Number of images.
        window: Images among which each is drawn.
        seed: Fixes the order.
    """
    rng = random.Random(seed)
    kept = list(range(min(window, count)))
    order = []
    for number in range(len(kept), count):
        place = rng.randrange(window)
        order.append(kept[place])
        kept[place] = number
    rng.shuffle(kept)
    return order + kept


def _in_turn(shards: Sequence[Shard], order: Sequence[int]) -> Iterator[tuple[Shard, int, bytes]]:
    """Read images as they lie, shard after shard, and hand them out in ``order``."""
    wanted = set(order)
    waiting: dict[int, tuple[Shard, int, bytes]] = {}
    turns = iter(order)
    turn = next(turns, None)
    first = 0
    for shard in shards:
        numbers = [number for number in range(len(shard.labels)) if first + number in wanted]
        for number, data in zip(numbers, shard.read(numbers), strict=True):
            waiting[first + number] = shard, number, data
            while turn is not None and turn in waiting:
                yield waiting.pop(turn)
                turn = next(turns, None)
        first += len(shard.labels)


def _decoded(shard: Shard, number: int, data: bytes, transform: Transform, seed: int) -> tuple[Tensor, int] | str:
    try:
        image = decode(data, shard.where(number))
    except ValueError as error:
        return str(error)
    torch.manual_seed(seed)
    return transform(image), shard.labels[number]


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
