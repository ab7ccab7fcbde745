"""An architecture as data: what a search finds, a file holds and :func:`dicenas.build` makes a network of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dicenas.files import atomic_write_text

__all__ = ["SCHEMA_VERSION", "STEMS", "Architecture", "size_pair"]

#: Version of the JSON form; raised when a field is added, renamed or changes its meaning.
SCHEMA_VERSION = 1

#: Stems: ``imagenet`` reduces the image (convolution of stride 2, and max pooling where the backbone has it),
#: ``small`` keeps its size.
STEMS = ("imagenet", "small")

#: From this image size on, in pixels, :meth:`Architecture.at_size` takes the ``imagenet`` stem.
_IMAGENET_STEM_FROM = 64


def size_pair(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Return ``(H, W)`` of an image size that is one number for both, or the two."""
    return image_size if isinstance(image_size, Sequence) else (image_size, image_size)


@dataclass(frozen=True)
class Architecture:
    """One network of a backbone family, complete: ``dicenas.build(architecture)`` needs nothing else.

    Only what the network has is stored, so that two samples of a space that differ in inactive choices alone give
    equal architectures with equal hashes.

    Attributes:
        backbone: Name of the backbone family, such as ``"shufflenetv2"``.
        width: Width multiplier.
        stages: Candidate op of each block, stage by stage: ``(("dice_k3", "separable_k5"), ...)``.
        stem: ``"imagenet"`` or ``"small"``.
        image_size: Native ``(H, W)`` of the input in pixels.
        num_classes: Classes of the classifier.
        in_channels: Channels of the image.

    Raises:
        ValueError: A value that no network can have: not a positive whole number, not a list of lists of names, ...
    """

    backbone: str
    width: float
    stages: tuple[tuple[str, ...], ...]
    stem: str = "imagenet"
    image_size: tuple[int, int] = (224, 224)
    num_classes: int = 1000
    in_channels: int = 3

    def __post_init__(self) -> None:
        # Sequences of any kind are accepted and frozen, so that JSON lists compare equal to tuples.
        size = tuple(size_pair(self.image_size))
        if any(isinstance(stage, str) or not all(isinstance(op, str) for op in stage) for stage in self.stages):
            raise ValueError(f"stages {self.stages!r} should give the names of the ops in a list for each stage")
        object.__setattr__(self, "stages", tuple(tuple(stage) for stage in self.stages))
        object.__setattr__(self, "image_size", size)
        object.__setattr__(self, "width", float(self.width))
        if not 0 < self.width < math.inf:
            raise ValueError(f"width {self.width} should be a positive number")
        if self.stem not in STEMS:
            raise ValueError(f"unknown stem {self.stem!r}; expected one of {', '.join(STEMS)}")
        if len(size) != 2 or not all(map(_is_count, size)):
            raise ValueError(f"image_size {self.image_size!r} should be (H, W) in pixels, both at least 1")
        for name in ("num_classes", "in_channels"):
            if not _is_count(getattr(self, name)):
                raise ValueError(f"{name} {getattr(self, name)!r} should be a whole number of at least 1")

    def replace(self, **changes: Any) -> Architecture:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def at_size(self, image_size: int | tuple[int, int] | None) -> Architecture:
        """Return the same network rebuilt for another native size, say the size it is deployed at; None keeps its own.

        Images of 64 pixels and more get the ``imagenet`` stem: a network searched on small images with the
        ``small`` stem would cost sixteen times as much on large ones, and nobody would deploy it so.
        """
        if image_size is None:
            return self
        size = size_pair(image_size)
        stem = "imagenet" if min(size) >= _IMAGENET_STEM_FROM else self.stem
        return self.replace(image_size=size, stem=stem)

    def to_dict(self) -> dict[str, Any]:
        """Return the architecture as plain data, with the schema version."""
        return {
            "schema_version": SCHEMA_VERSION,
            "backbone": self.backbone,
            "width": self.width,
            "stem": self.stem,
            "image_size": list(self.image_size),
            "num_classes": self.num_classes,
            "in_channels": self.in_channels,
            "stages": [list(stage) for stage in self.stages],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Architecture:
        """Read what :meth:`to_dict` gives.

        Args:
            data: The architecture. It may hold its :attr:`hash`, as in a file, which is checked then.

        Raises:
            ValueError: A field is missing, unknown or of the wrong kind, or the schema is newer than this version.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"an architecture is a mapping, got {type(data).__name__}")
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"architecture has schema version {version!r}, this dicenas reads {SCHEMA_VERSION}; "
                "use the version of dicenas that wrote it, or a newer one"
            )
        fields = {field.name for field in dataclasses.fields(cls)}
        given = set(data) - {"schema_version", "hash"}
        if given != fields:
            missing, unknown = sorted(fields - given), sorted(given - fields)
            raise ValueError(f"architecture: missing fields {missing}, unknown fields {unknown}")
        try:
            architecture = cls(**{name: data[name] for name in fields})
        except TypeError as error:
            raise ValueError(f"architecture: a field has the wrong kind of value ({error})") from error
        if "hash" in data and data["hash"] != architecture.hash:
            raise ValueError(
                f"architecture: damaged, it says hash {data['hash']!r} and has {architecture.hash!r}; where it was "
                "changed on purpose, remove the hash"
            )
        return architecture

    def to_json(self) -> str:
        """Return the architecture as JSON text, with its :attr:`hash`, by which a damaged file is noticed."""
        return json.dumps({**self.to_dict(), "hash": self.hash}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Read what :meth:`to_json` gives.

        Raises:
            ValueError: As :meth:`from_dict`, or the text is no JSON.
        """
        return cls.from_dict(json.loads(text))

    def save(self, path: str | Path) -> None:
        """Write the architecture to a JSON file; the whole file appears or none."""
        atomic_write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Architecture:
        """Read an architecture file.

        Raises:
            ValueError: The file holds no architecture; the message names the file.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @cached_property
    def hash(self) -> str:
        """Hexadecimal digest that two architectures share exactly when they are equal."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
