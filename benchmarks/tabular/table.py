"""The tabular benchmark as data: its architectures, its recipe, and the file of finished trainings.

The file holds JSON lines. The first says what was trained and how; each further line is one finished training. Lines
are appended whole under a lock and reach the disk before the next training begins, so that the file can be taken up
again whenever its writers were killed, and several processes can write to it side by side.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

from dicenas import Architecture
from dicenas.evaluation.tabular import SCHEMA_VERSION, Training, TrainingTable
from dicenas.space import SpaceSpec

__all__ = [
    "RECIPE",
    "SEEDS",
    "SPACE",
    "Claims",
    "Recipe",
    "Table",
    "architectures",
    "group",
    "header",
    "order",
    "unit_ops",
]

#: Seeds of the trainings of each architecture.
SEEDS = (0, 1)

#: The space: what each stage's basic unit holds, at two widths and two resolutions. The down-sampling units hold
#: ``separable_k3`` in all of them.
SPACE = SpaceSpec(
    "shufflenetv2",
    ops=("separable_k3", "separable_se_k3", "dice_k3", "skip"),
    widths=(0.1, 0.5),
    depths=((1,), (1,), (1,)),
    stems=("small",),
    resolutions=(12, 24),
    num_classes=10,
    block_ops={f"s{stage}_b0": ("separable_k3",) for stage in (1, 2, 3)},
)


@dataclass(frozen=True)
class Recipe:
    """How each architecture is trained.

    Attributes:
        train_per_class: Training images of each class, the first of CIFAR-10's training part in the order of names.
        val_per_class: Validation images of each class, the last of the training part.
        test_per_class: Test images of each class, the first of CIFAR-10's test part.
        epochs: Passes over the training images.
        batch: Images in a step.
        learning_rate: Highest learning rate.
        weight_decay: Weight decay.
        threads: CPU threads.
    """

    train_per_class: int = 300
    val_per_class: int = 200
    test_per_class: int = 500
    epochs: int = 6
    batch: int = 50
    learning_rate: float = 0.03
    weight_decay: float = 1e-4
    threads: int = 1


RECIPE = Recipe()


@lru_cache(maxsize=1)
def architectures() -> tuple[Architecture, ...]:
    """Return the 256 architectures: 2 widths, 2 resolutions, and 4 ops for the basic unit of each of 3 stages."""
    return tuple(SPACE.enumerate())


def unit_ops(architecture: Architecture) -> tuple[str, ...]:
    """Return the op of each stage's basic unit."""
    return tuple(stage[1] for stage in architecture.stages)


def group(architecture: Architecture) -> tuple[float, int]:
    """Return width and resolution: architectures that share them differ in their ops alone."""
    return architecture.width, architecture.image_size[0]


def order() -> list[tuple[Architecture, int]]:
    """Return every training, architecture and seed, in the order in which they are done.

    The architectures are shuffled, by a fixed seed, and every one is trained with the first seed before the second's
    turn comes: half of the table is a table of one seed.
    """
    shuffled = list(architectures())
    Random(0).shuffle(shuffled)
    return [(architecture, seed) for seed in SEEDS for architecture in shuffled]


def header(recipe: Recipe, data_digest: str) -> dict[str, Any]:
    """Return the first line of a file: all that a training's result depends on, but for rounding."""
    digest = hashlib.sha256("".join(sorted(a.hash for a in architectures())).encode()).hexdigest()[:16]
    return {
        "schema_version": SCHEMA_VERSION,
        "space": SPACE.to_dict(),
        "architectures": len(architectures()),
        "fingerprint": digest,
        "seeds": list(SEEDS),
        "recipe": asdict(recipe),
        "dataset": {"name": "cifar10", "sha256": data_digest},
    }


class Table:
    """A file of finished trainings that is being written.

    Args:
        path: The file; made by the first :meth:`append` where it is not there.
        header: What the file's first line has to say, see :func:`header`.

    Raises:
        ValueError: The file is of another recipe, space or dataset, or a line in it is damaged.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self.header = header
        self.trainings()

    def trainings(self) -> dict[tuple[str, int], Training]:
        """Return all finished trainings by architecture and seed; a torn last line is passed over."""
        table = self._read()
        return {} if table is None else table.trainings

    def append(self, training: Training) -> bool:
        """Add a finished training and wait until it is on the disk; a torn last line is cut off before.

        Returns:
            Whether it was added; False where the file has it already.

        Raises:
            ValueError: The training is none of this table's, or its values are none of a training.
        """
        with self.path.open("a+b") as file, _locked(file.fileno()):
            file.seek(0)
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                file.truncate(whole)
            if not whole:
                file.write(json.dumps(self.header).encode() + b"\n")
                file.flush()
            table = self._read()
            assert table is not None
            table.check(training)
            if training.key in table.trainings:
                return False
            file.write(json.dumps(training.__dict__).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return True

    def _read(self) -> TrainingTable | None:
        """Return what the file holds, None where it has no whole line yet."""
        if not self.path.exists() or b"\n" not in self.path.read_bytes():
            return None
        table = TrainingTable(self.path)
        for name, expected in self.header.items():
            if table.header.get(name) != expected:
                raise ValueError(
                    f"{self.path}: the file is of another {name}: it has {table.header.get(name)!r}, this generator "
                    f"{expected!r}; give another file"
                )
        return table


class Claims:
    """Which training which process is at: locks that end with the process that holds them.

    Args:
        path: File beside the table; it stays empty.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")

    @contextmanager
    def claim(self, number: int) -> Iterator[bool]:
        """Hold training ``number`` within the context; gives False where another process holds it."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)


@contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
