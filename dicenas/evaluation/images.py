"""Labelled images, decoded once and held in memory, or read from their files batch by batch."""

from __future__ import annotations

import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

__all__ = ["FileImages", "Images", "MemoryImages", "read_image", "resize_images"]

_RESIZE_CHUNK = 1024  # images turned to float at once
_NAMED_FAILURES = 5  # broken files that one error message names


class Images(ABC):
    """Labelled RGB images of one size, handed out as batches in any order."""

    labels: Tensor
    """Class indices, int64, shape ``(N,)``."""
    image_size: int
    """Height and width of the images handed out, in pixels."""

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def batches(self, order: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Hand out images and labels.

        Args:
            order: Positions of the images wanted, in the order wanted, int64, shape ``(M,)``.
            batch: Images in a batch; the last batch holds what remains.

        Yields:
            Images, uint8, shape ``(n, 3, image_size, image_size)``, and labels, int64, shape ``(n,)``.
        """

    @abstractmethod
    def at_size(self, image_size: int) -> Images:
        """Return the same images handed out in another height and width, in pixels."""


@dataclass(frozen=True, eq=False)
class MemoryImages(Images):
    """Images held in memory.

    Images that are stored in another size than ``image_size`` are resized batch by batch: for sets that fit
    in memory in their own size only.

    Attributes:
        images: uint8, shape ``(N, 3, H, W)``.
        labels: Class indices, int64, shape ``(N,)``.
        image_size: Height and width of the images handed out.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    image_size: int

    def batches(self, order: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for positions in torch.split(order, batch):
            yield resize_images(self.images[positions], self.image_size), self.labels[positions]

    def at_size(self, image_size: int) -> MemoryImages:
        return MemoryImages(resize_images(self.images, image_size), self.labels, image_size)


@dataclass(frozen=True, eq=False)
class FileImages(Images):
    """Images that are read from their files by worker processes, each time they are wanted.

    Attributes:
        paths: One image file for each label.
        labels: Class indices, int64, shape ``(N,)``.
        image_size: Height and width of the images handed out.
    """

    paths: Sequence[Path] = field(repr=False)
    labels: Tensor = field(repr=False)
    image_size: int

    def batches(self, order: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        positions = [chunk.tolist() for chunk in torch.split(order, batch)]
        loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
            _Files(self.paths, self.labels, self.image_size),
            batch_sampler=positions,
            num_workers=_cpu_count(),
            # Without one of its own, a loader draws its workers' seed from the global random state.
            generator=torch.Generator(),
        )
        yield from loader

    def at_size(self, image_size: int) -> FileImages:
        return FileImages(self.paths, self.labels, image_size)

    def load(self) -> MemoryImages:
        """Decode every image into memory.

        Raises:
            ValueError: Files that cannot be decoded, by name.
        """
        images = torch.empty(len(self), 3, self.image_size, self.image_size, dtype=torch.uint8)
        for position, image in enumerate(self._decoded()):
            images[position] = image
        return MemoryImages(images, self.labels, self.image_size)

    def verify(self) -> None:
        """Decode every image once and keep none, so that a broken file is found before it is needed.

        Raises:
            ValueError: Files that cannot be decoded, by name.
        """
        for _ in self._decoded():
            pass

    def _decoded(self) -> Iterator[Tensor]:
        def decode(path: Path) -> Tensor | ValueError:
            try:
                return read_image(path, self.image_size)
            except ValueError as error:
                return error

        failures: list[str] = []
        # Threads are enough: Pillow decodes and resizes without the interpreter's lock. Chunks keep the
        # images that are decoded and not yet taken few.
        with (
            ThreadPoolExecutor(_cpu_count()) as pool,
            tqdm(total=len(self), desc="decoding images", unit="image", delay=2, leave=False, disable=None) as bar,
        ):
            for start in range(0, len(self), _RESIZE_CHUNK):
                for decoded in pool.map(decode, self.paths[start : start + _RESIZE_CHUNK]):
                    bar.update()
                    if isinstance(decoded, ValueError):
                        failures.append(str(decoded))
                    elif not failures:
                        yield decoded
        if failures:
            more = len(failures) - _NAMED_FAILURES
            named = failures[:_NAMED_FAILURES] + ([f"and {more} more"] if more > 0 else [])
            raise ValueError("\n".join(["broken image files (replace or remove them):", *named]))


class _Files(Dataset[tuple[Tensor, Tensor]]):
    """What the worker processes of a loader read."""

    def __init__(self, paths: Sequence[Path], labels: Tensor, image_size: int) -> None:
        self.paths = paths
        self.labels = labels
        self.image_size = image_size

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        return read_image(self.paths[position], self.image_size), self.labels[position]


def read_image(path: str | Path, image_size: int) -> Tensor:
    """Read an image file as RGB: the largest centred square of it, resized.

    Args:
        path: A file of any format that Pillow reads.
        image_size: Height and width to resize to, in pixels.

    Returns:
        uint8, shape ``(3, image_size, image_size)``.

    Raises:
        ValueError: The file is no image, or is cut off or damaged.
    """
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            square = ImageOps.fit(image.convert("RGB"), (image_size, image_size), Image.Resampling.BILINEAR)
    # Pillow's decoders raise any of these for damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be decoded: {error}") from error
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def resize_images(images: Tensor, image_size: int) -> Tensor:
    """Resize images bilinearly, averaging where they shrink.

    Args:
        images: uint8, shape ``(N, C, H, W)``.
        image_size: Height and width to resize to, in pixels.

    Returns:
        uint8, shape ``(N, C, image_size, image_size)``; ``images`` themselves where they have that size.
    """
    if images.shape[-2:] == (image_size, image_size):
        return images
    size = (image_size, image_size)
    return torch.cat(
        [
            F.interpolate(chunk.float(), size, mode="bilinear", antialias=True).round().clamp(0, 255).byte()
            for chunk in torch.split(images, _RESIZE_CHUNK)
        ]
    )


def _cpu_count() -> int:
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
