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
from dicenas.space import SpaceSpec

__all__ = [
    "RECIPE",
    "SCHEMA_VERSION",
    "SEEDS",
    "SPACE",
    "Claims",
    "Recipe",
    "Table",
    "Training",
    "architectures",
    "group",
    "header",
    "order",
    "unit_ops",
]

#: Version of the file's form; raised when a field is added, renamed or changes its meaning.
SCHEMA_VERSION = 2
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


@lru_cache(maxsize=1)
def _by_hash() -> dict[str, Architecture]:
    return {architecture.hash: architecture for architecture in architectures()}


def order() -> list[tuple[Architecture, int]]:
    """Return every training, architecture and seed, in the order in which they are done.

    The architectures are shuffled, by a fixed seed, and each one's seeds follow one another: a part of the table is a
    random sample of the architectures, with the noise between seeds in it.
    """
    shuffled = list(architectures())
    Random(0).shuffle(shuffled)
    return [(architecture, seed) for architecture in shuffled for seed in SEEDS]


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


@dataclass(frozen=True)
class Training:
    """One finished training, a line of the file.

    Attributes:
        architecture: Hash of the architecture.
        sample: Value of each choice of :data:`SPACE`.
        seed: Seed of the initial weights, the order of the images and their augmentation.
        val_accuracy: Accuracy on the validation images after each epoch, 0 to 1.
        val_loss: Mean cross-entropy on the validation images after each epoch.
        train_loss: Mean loss of the steps of each epoch.
        test_accuracy: Accuracy on the test images at the end, 0 to 1.
        macs: Multiply-adds of one image at the native size.
        params: Parameters.
        cpu_seconds: Processor time of training and evaluations.
        wall_seconds: Time that passed; machines were shared.
        finished: When, in UTC.
        origin: Version of the code, torch and processor.
    """

    architecture: str
    sample: Mapping[str, str | float]
    seed: int
    val_accuracy: tuple[float, ...]
    val_loss: tuple[float, ...]
    train_loss: tuple[float, ...]
    test_accuracy: float
    macs: int
    params: int
    cpu_seconds: float
    wall_seconds: float
    finished: str
    origin: str

    @property
    def key(self) -> tuple[str, int]:
        """What no two lines of a file share: architecture and seed."""
        return self.architecture, self.seed

    def check(self, epochs: int) -> None:
        """Raise ``ValueError`` unless the values are such as a training gives."""
        architecture = _by_hash().get(self.architecture)
        if architecture is None or SPACE.sample(architecture) != self.sample:
            raise ValueError(f"architecture {self.architecture}, {dict(self.sample)}, is none of the benchmark's")
        if self.seed not in SEEDS:
            raise ValueError(f"seed {self.seed} is none of {SEEDS}")
        curves = (self.val_accuracy, self.val_loss, self.train_loss)
        if any(len(curve) != epochs for curve in curves):
            raise ValueError(f"{[len(curve) for curve in curves]} values in the curves, expected {epochs} epochs")
        if not all(0 <= accuracy <= 1 for accuracy in (*self.val_accuracy, self.test_accuracy)):
            raise ValueError("an accuracy is outside 0 to 1")


@dataclass
class Table:
    """A file of finished trainings.

    Args:
        path: The file; made by the first :meth:`append` where it is not there.
        header: What the file's first line has to say, see :func:`header`; ``None`` takes what it says.

    Raises:
        ValueError: The file is of another recipe, space or dataset, or a line in it is damaged.
    """

    path: Path
    header: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.path.exists() or self.header is None:
            found = self._whole_lines()
            self._read(found)
            if self.header is None:
                if not found:
                    raise ValueError(f"{self.path}: empty; the first line should say what was trained")
                self.header = json.loads(found[0])

    def trainings(self) -> dict[tuple[str, int], Training]:
        """Return all finished trainings by architecture and seed; a torn last line is passed over."""
        return self._read(self._whole_lines()) if self.path.exists() else {}

    def append(self, training: Training) -> bool:
        """Add a finished training and wait until it is on the disk; a torn last line is cut off before.

        Returns:
            Whether it was added; False where the file has it already.
        """
        assert self.header is not None
        training.check(self.header["recipe"]["epochs"])
        with self.path.open("a+b") as file, _locked(file.fileno()):
            if training.key in self._read(self._whole_lines()):
                return False
            file.seek(0)
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                file.truncate(whole)
            lines = [training.__dict__] if whole else [self.header, training.__dict__]
            file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())
        return True

    def _whole_lines(self) -> list[str]:
        return self.path.read_bytes().decode().split("\n")[:-1]

    def _read(self, lines: list[str]) -> dict[tuple[str, int], Training]:
        trainings: dict[tuple[str, int], Training] = {}
        for number, line in enumerate(lines, 1):
            try:
                values = json.loads(line)
                if number == 1:
                    if self.header is None:
                        self.header = values
                    self._check_header(values)
                    continue
                curves = {name: tuple(values[name]) for name in ("val_accuracy", "val_loss", "train_loss")}
                training = Training(**{**values, **curves})
                training.check(self.header["recipe"]["epochs"] if self.header else 0)
                if training.key in trainings:
                    raise ValueError(f"architecture {training.architecture} with seed {training.seed} is there twice")
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{self.path}, line {number}: {error}") from error
            trainings[training.key] = training
        return trainings

    def _check_header(self, found: Any) -> None:
        if not isinstance(found, dict) or found.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"not the first line of a table of schema version {SCHEMA_VERSION}")
        assert self.header is not None
        for name, expected in self.header.items():
            if found.get(name) != expected:
                raise ValueError(
                    f"the file is of another {name}: it has {found.get(name)!r}, this generator {expected!r}; "
                    "give another file"
                )


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
