"""Shards read as a stream, in an order that needs no state.

The order of an epoch is planned from the shards' indices: shards in random order, images shuffled within a window.
Images are then read as they lie, and each is handed out when its turn has come. What a process needs to go on in the
middle is the number of images that it has handed out; what was handed out is not read again.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from dicenas.training.image_files import decode
from dicenas.training.image_sets import Batch, ImageSet, Plan, loaded, loader_options
from dicenas.training.shards import Shard
from dicenas.training.transforms import Transform, derived_seed

__all__ = ["ShardSet", "window_order"]

_WINDOW = 4096  # images among which the next one is drawn


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
            order = window_order(count, _WINDOW, derived_seed(self.plan.seed, "window", self.epoch, turn, lane))
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
