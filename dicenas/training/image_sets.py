"""Sets of labelled images, in memory or in files, that are handed out in batches; the order needs no state."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from dicenas.training.image_files import FolderFiles, ZipFiles, decode
from dicenas.training.transforms import Transform, derived_seed

__all__ = ["Batch", "FileSet", "ImageSet", "MemorySet", "Plan", "loaded", "loader_options"]

#: uint8 images ``(N, 3, H, W)`` and their classes ``(N,)``.
Batch: TypeAlias = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Plan:
    """Which images a process takes, and how they are cut into batches.

    Attributes:
        seed: Seed of the training.
        micro_batch: Images that a process takes at once.
        accumulation: Micro-batches of an optimizer step.
        rank: Number of the process.
        processes: Number of processes.
        workers: Processes that decode images for this one; 0 decodes in this one.
        pin: Whether batches lie in memory that a graphics card reads quickly.
    """

    seed: int
    micro_batch: int
    accumulation: int = 1
    rank: int = 0
    processes: int = 1
    workers: int = 0
    pin: bool = False

    @property
    def batch(self) -> int:
        """Images of an optimizer step."""
        return self.micro_batch * self.accumulation * self.processes

    def steps(self, count: int) -> int:
        """Number of optimizer steps in an epoch of ``count`` images."""
        return count // self.batch

    def positions(self, count: int, epoch: int, step: int) -> list[Tensor]:
        """Return the positions of the images of each micro-batch that this process takes, from a step on.

        Every process draws the same order; a step takes the same images however many processes share them.
        """
        order = torch.randperm(count, generator=torch.Generator().manual_seed(derived_seed(self.seed, "order", epoch)))
        steps = order[: self.steps(count) * self.batch].view(self.steps(count), self.processes, -1)
        return list(steps[step:, self.rank].reshape(-1, self.micro_batch))


class ImageSet(ABC):
    """Labelled images of one part of a dataset."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def digest(self) -> str:
        """Hexadecimal digest that changes where images are added, removed, renamed or relabelled."""

    @abstractmethod
    def training_batches(self, plan: Plan, epoch: int, step: int, transform: Transform | None) -> Iterator[Batch]:
        """Hand out the micro-batches of an epoch that this process takes.

        Args:
            plan: Cuts the epoch into batches.
            epoch: Number of the epoch, from 0.
            step: Optimizer step of the epoch to begin with; what comes is what would have come without a break.
            transform: Applied to each image.

        Raises:
            ValueError: An image cannot be decoded.
        """

    @abstractmethod
    def validation_batches(self, plan: Plan, transform: Transform | None) -> Iterator[Batch]:
        """Hand out this process's share of all images, each once, in their order.

        Raises:
            ValueError: An image cannot be decoded.
        """


class MemorySet(ImageSet):
    """Images in memory.

    Args:
        images: uint8, shape ``(N, 3, H, W)``.
        labels: Class indices, int64, shape ``(N,)``.
        digest: Digest of where they came from; that of the pixels where it is None.
    """

    def __init__(self, images: Tensor, labels: Tensor, digest: str | None = None) -> None:
        self.images = images.contiguous()
        self.labels = labels
        self._digest = digest

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def digest(self) -> str:
        if self._digest is not None:
            return self._digest
        digest = hashlib.sha256(self.images.numpy().data)
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()

    def training_batches(self, plan: Plan, epoch: int, step: int, transform: Transform | None) -> Iterator[Batch]:
        positions = plan.positions(len(self), epoch, step)
        if transform is None:
            return ((self.images[chosen], self.labels[chosen]) for chosen in positions)
        return _loaded_batches(_Decoded(self, transform), positions, plan, epoch)

    def validation_batches(self, plan: Plan, transform: Transform | None) -> Iterator[Batch]:
        for chosen in torch.arange(plan.rank, len(self), plan.processes).split(plan.micro_batch):
            yield self.images[chosen], self.labels[chosen]

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return self.images[position], int(self.labels[position])


class FileSet(ImageSet):
    """Images that are decoded each time they are wanted.

    Args:
        files: Where their bytes are.
        labels: Class indices, int64, shape ``(N,)``.
        chosen: Positions in ``files`` of the images of this set, all of them where it is None; ``labels`` belong to
            ``files``.
    """

    def __init__(self, files: FolderFiles | ZipFiles, labels: Tensor, chosen: Tensor | None = None) -> None:
        self.files = files
        self.chosen = torch.arange(len(labels)) if chosen is None else chosen
        self.labels = labels[self.chosen]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def digest(self) -> str:
        marks = self.files.marks()
        digest = hashlib.sha256()
        for position, label in zip(self.chosen.tolist(), self.labels.tolist(), strict=True):
            digest.update(f"{self.files.names[position]}\0{marks[position]}\0{label}\n".encode())
        return digest.hexdigest()

    def training_batches(self, plan: Plan, epoch: int, step: int, transform: Transform | None) -> Iterator[Batch]:
        assert transform is not None, "images in files have no size of their own"
        return _loaded_batches(_Decoded(self, transform), plan.positions(len(self), epoch, step), plan, epoch)

    def validation_batches(self, plan: Plan, transform: Transform | None) -> Iterator[Batch]:
        assert transform is not None, "images in files have no size of their own"
        positions = list(torch.arange(plan.rank, len(self), plan.processes).split(plan.micro_batch))
        return _loaded_batches(_Decoded(self, transform), positions, plan, 0)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        source = int(self.chosen[position])
        return decode(self.files.read(source), self.files.where(source)), int(self.labels[position])

    def load(self, transform: Transform, workers: int) -> MemorySet:
        """Decode all images into memory.

        Raises:
            ValueError: An image cannot be decoded.
        """
        images: Tensor | None = None
        done = 0
        with tqdm(
            total=len(self),
            desc="decoding images",
            unit="image",
            delay=2,
            leave=False,
            disable=True if int(os.environ.get("RANK", 0)) else None,  # of several processes, one shows it
        ) as bar:
            for batch, _ in self.validation_batches(Plan(0, 256, workers=workers), transform):
                if images is None:
                    images = torch.empty(len(self), *batch.shape[1:], dtype=torch.uint8)
                images[done : done + len(batch)] = batch
                done += len(batch)
                bar.update(len(batch))
        assert images is not None
        return MemorySet(images, self.labels, self.digest)


class _Decoded(Dataset["tuple[Tensor, int] | str"]):
    """What the worker processes run: an image, transformed under a seed of its own, or what is wrong with it."""

    def __init__(self, images: MemorySet | FileSet, transform: Transform) -> None:
        self.images = images
        self.transform = transform

    def __getitem__(self, wanted: Any) -> tuple[Tensor, int] | str:
        position, *seeds = wanted
        try:
            image, label = self.images[position]
        except (ValueError, OSError) as error:
            return str(error)
        torch.manual_seed(derived_seed(*seeds, position))
        return self.transform(image), label


def _loaded_batches(dataset: _Decoded, positions: list[Tensor], plan: Plan, epoch: int) -> Iterator[Batch]:
    wanted = ([(position, plan.seed, "image", epoch) for position in chosen.tolist()] for chosen in positions)
    return loaded(DataLoader(dataset, batch_sampler=wanted, **loader_options(plan)))


def loader_options(plan: Plan) -> dict[str, Any]:
    """Return the options that all loaders share."""
    return {
        "num_workers": plan.workers,
        "pin_memory": plan.pin,
        "collate_fn": _collated,
        # Without one of its own, a loader draws its workers' seed from the global generator.
        "generator": torch.Generator(),
    }


def loaded(loader: DataLoader[Any]) -> Iterator[Batch]:
    """Hand out a loader's batches, the global generator untouched by those that are decoded in this process.

    Raises:
        ValueError: An image cannot be decoded. (Raised in a worker, it would arrive with the worker's traceback.)
    """
    batches = iter(loader)
    while True:
        with torch.random.fork_rng(devices=[]):
            batch = next(batches, None)
        if batch is None:
            return
        if isinstance(batch, str):
            raise ValueError(batch)
        yield batch


def _collated(samples: list[tuple[Tensor, int] | str]) -> Batch | str:
    problems = [sample for sample in samples if isinstance(sample, str)]
    if problems:
        return "\n".join(problems)
    pairs = [sample for sample in samples if not isinstance(sample, str)]
    return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])
