"""A search space as data: its choices, its architectures and what they cost, without NNI and without modules."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any, Literal, TypeAlias

from dicenas.architecture import STEMS, Architecture
from dicenas.nets.backbone import Backbone, BlockSpec, Layout, architecture_cost, get_backbone, list_backbones
from dicenas.ops import Cost, expand_candidates
from dicenas.spelling import did_you_mean

__all__ = ["DEFAULT_OPS", "Choice", "Sample", "SpaceSpec", "Value"]

Value: TypeAlias = str | int | float
#: A value for each active label of a space, as NNI and Optuna know a point of it.
Sample: TypeAlias = dict[str, Value]

#: Ops that a space offers by default.
DEFAULT_OPS = ("separable", "separable_se", "dice", "skip")


@dataclass(frozen=True)
class Choice:
    """One thing a space leaves open.

    Attributes:
        label: Name of the choice, such as ``"width"``, ``"s1_depth"`` or ``"s1_b0"`` (the op of block 0 of stage 1).
        values: What may be chosen.
        condition: ``None`` where the choice is always active; else a label and the values of it for which it is.
    """

    label: str
    values: tuple[Value, ...]
    condition: tuple[str, tuple[Value, ...]] | None = None

    def active(self, sample: Mapping[str, Value]) -> bool:
        """Return whether the choice matters, given the choices before it."""
        return self.condition is None or sample.get(self.condition[0]) in self.condition[1]


@dataclass(frozen=True)
class SpaceSpec:
    """A space of architectures over one backbone: op per block, depth per stage, width, stem and resolution.

    Attributes:
        backbone: Name of the backbone family.
        ops: Candidate ops; an op's name stands for all its kernel sizes.
        widths: Width multipliers; the backbone's usual ones when empty.
        depths: Depth choices of each stage; the backbone's usual ones when empty.
        stems: Stems, of ``"imagenet"`` and ``"small"``.
        resolutions: Native image sizes ``H = W`` in pixels.
        num_classes: Classes of the classifier.
        in_channels: Channels of the image.

    Raises:
        ValueError: Something in it does not exist or is empty.

    Example:
        >>> space = SpaceSpec("shufflenetv2", ops=("separable", "dice"))
        >>> architecture = space.random(Random(0))
        >>> space.cost(architecture).macs
    """

    backbone: str
    ops: tuple[str, ...] = DEFAULT_OPS
    widths: tuple[float, ...] = ()
    depths: tuple[tuple[int, ...], ...] = ()
    stems: tuple[str, ...] = ("imagenet",)
    resolutions: tuple[int, ...] = (224,)
    num_classes: int = 1000
    in_channels: int = 3
    _family: Backbone = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        family = get_backbone(self.backbone)
        for name, kind, expected in (
            ("ops", str, "names"),
            ("widths", int | float, "numbers"),
            ("depths", Sequence, "lists"),
            ("stems", str, "names"),
        ):
            values = getattr(self, name)
            if isinstance(values, str) or not all(isinstance(value, kind) for value in values):
                raise ValueError(f"{name} should be a list of {expected}, got {values!r}")
        set_field = object.__setattr__
        set_field(self, "_family", family)
        set_field(self, "ops", expand_candidates(self.ops))
        set_field(self, "widths", tuple(float(width) for width in self.widths) or family.widths)
        set_field(self, "depths", tuple(tuple(depths) for depths in self.depths) or family.depths)
        set_field(self, "stems", tuple(self.stems))
        set_field(self, "resolutions", tuple(self.resolutions))
        for name in ("ops", "widths", "stems", "resolutions"):
            self._check_values(name, getattr(self, name))
        for width in self.widths:
            family.check_width(width)
        for stem in self.stems:
            if stem not in STEMS:
                raise ValueError(f"unknown stem {stem!r}{did_you_mean(stem, STEMS)} ({' or '.join(STEMS)})")
        if any(not isinstance(side, int) or side < 1 for side in self.resolutions):
            raise ValueError(f"resolutions {list(self.resolutions)} should be positive sizes in pixels")
        if len(self.depths) != family.num_stages:
            raise ValueError(f"{self.backbone} has {family.num_stages} stages, depths gives {len(self.depths)} lists")
        for number, depths in enumerate(self.depths, 1):
            self._check_values(f"depths of stage {number}", depths)
            if any(not isinstance(depth, int) or depth < 1 for depth in depths):
                raise ValueError(f"depths of stage {number}: {list(depths)} should be positive numbers of blocks")
        if self.num_classes < 1 or self.in_channels < 1:
            raise ValueError(f"num_classes {self.num_classes} and in_channels {self.in_channels} must be at least 1")
        for label, candidates in self._block_candidates.items():
            if not candidates:
                raise ValueError(f"none of the ops {', '.join(self.ops)} fits into block {label}")

    @staticmethod
    def _check_values(name: str, values: Sequence[Any]) -> None:
        if not values:
            raise ValueError(f"{name}: no value given")
        if len(set(values)) != len(values):
            raise ValueError(f"{name}: a value is given twice in {list(values)}")

    @classmethod
    def from_config(
        cls, section: Mapping[str, Any], *, num_classes: int, image_size: int, in_channels: int = 3
    ) -> SpaceSpec:
        """Read the ``space:`` section of a search configuration.

        Keys: ``backbone``, and where they differ from the defaults ``ops``, ``widths``, ``depths``, ``stem`` (a
        name or a list) and ``resolutions``.

        Args:
            section: The section, or only the name of a backbone under ``backbone``.
            num_classes: Classes of the data.
            image_size: Size of the training images, the resolution unless the section searches it.
            in_channels: Channels of the images.

        Raises:
            ValueError: As the class; unknown keys too.
        """
        known = ("backbone", "ops", "widths", "depths", "stem", "resolutions")
        for key in section:
            if key not in known:
                raise ValueError(f"unknown key {key!r}{did_you_mean(key, known)} (known: {', '.join(known)})")
        if not isinstance(section.get("backbone"), str):
            raise ValueError(f"key 'backbone' should name a backbone: {' or '.join(list_backbones())}")

        def values(key: str) -> tuple[Any, ...]:
            given = section.get(key, [])
            if not isinstance(given, list | tuple):
                raise ValueError(f"{key} should be a list, got {given!r}")
            if key in section and not given:
                raise ValueError(f"{key}: no value given")
            return tuple(given)

        stem = section.get("stem", "small" if image_size < 64 else "imagenet")
        return cls(
            backbone=section["backbone"],
            ops=values("ops") or DEFAULT_OPS,
            widths=values("widths"),
            depths=values("depths"),
            stems=(stem,) if isinstance(stem, str) else values("stem"),
            resolutions=values("resolutions") or (image_size,),
            num_classes=num_classes,
            in_channels=in_channels,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the space as plain data."""
        return {
            "backbone": self.backbone,
            "ops": list(self.ops),
            "widths": list(self.widths),
            "depths": [list(depths) for depths in self.depths],
            "stems": list(self.stems),
            "resolutions": list(self.resolutions),
            "num_classes": self.num_classes,
            "in_channels": self.in_channels,
        }

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal digest that two spaces share exactly when they are equal."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    # Choices and samples

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """All that the space leaves open, in an order in which conditions refer to earlier choices alone."""
        choices = [
            Choice("width", self.widths),
            Choice("stem", self.stems),
            Choice("resolution", self.resolutions),
        ]
        for stage, depths in enumerate(self.depths, 1):
            choices.append(Choice(f"s{stage}_depth", depths))
            for position in range(self._blocks(max(depths))):
                deep_enough = tuple(depth for depth in depths if self._blocks(depth) > position)
                condition = None if deep_enough == depths else (f"s{stage}_depth", deep_enough)
                label = f"s{stage}_b{position}"
                choices.append(Choice(label, self._block_candidates[label], condition))
        return tuple(choice for choice in choices if len(choice.values) > 1)

    def architecture(self, sample: Mapping[str, Value]) -> Architecture:
        """Return the architecture of a sample, in canonical form: what is inactive leaves no trace.

        Raises:
            ValueError: A label is unknown, an active one is missing, or a value is not among the choices.
        """
        by_label = {choice.label: choice for choice in self.choices}
        if unknown := sorted(set(map(str, sample)) - set(by_label)):
            raise ValueError(f"sample has unknown labels: {', '.join(unknown)}")
        for choice in self.choices:
            if not choice.active(sample):
                continue
            if choice.label not in sample:
                raise ValueError(f"sample lacks {choice.label!r}; it may be one of {list(choice.values)}")
            if sample[choice.label] not in choice.values:
                raise ValueError(f"{choice.label} = {sample[choice.label]!r} is not one of {list(choice.values)}")
        stages = []
        for stage, depths in enumerate(self.depths, 1):
            blocks = self._blocks(int(sample.get(f"s{stage}_depth", depths[0])))
            labels = [f"s{stage}_b{position}" for position in range(blocks)]
            ops = tuple(str(sample.get(label, self._block_candidates[label][0])) for label in labels)
            stages.append(self._canonical_stage(ops))
        resolution = int(sample.get("resolution", self.resolutions[0]))
        return Architecture(
            backbone=self.backbone,
            width=float(sample.get("width", self.widths[0])),
            stages=tuple(stages),
            stem=str(sample.get("stem", self.stems[0])),
            image_size=(resolution, resolution),
            num_classes=self.num_classes,
            in_channels=self.in_channels,
        )

    def sample(self, architecture: Architecture) -> Sample:
        """Return the sample of active labels that gives this architecture.

        Raises:
            ValueError: The architecture is not a point of the space.
        """
        height, width = architecture.image_size
        sample: Sample = {"width": architecture.width, "stem": architecture.stem, "resolution": height}
        for stage, (ops, depths) in enumerate(zip(architecture.stages, self.depths, strict=False), 1):
            # A stage from which `skip` was dropped may be shorter than any depth: skips fill it up again.
            depth = min((d for d in depths if self._blocks(d) >= len(ops)), default=max(depths))
            ops += ("skip",) * (self._blocks(depth) - len(ops))
            sample[f"s{stage}_depth"] = depth
            sample.update({f"s{stage}_b{position}": op for position, op in enumerate(ops)})
        open_labels = {choice.label for choice in self.choices}
        sample = {label: value for label, value in sample.items() if label in open_labels}
        if height != width or self.architecture(sample) != architecture:
            raise ValueError(f"architecture {architecture.hash} is not a point of this {self.backbone} space")
        return sample

    def __contains__(self, architecture: object) -> bool:
        if not isinstance(architecture, Architecture):
            return False
        try:
            self.sample(architecture)
        except ValueError:
            return False
        return True

    # Walking the space

    @cached_property
    def size(self) -> int:
        """Number of distinct architectures."""
        shared = len(self.widths) * len(self.stems) * len(self.resolutions)
        return shared * math.prod(self._stage_size(stage) for stage in range(1, len(self.depths) + 1))

    def enumerate(self) -> Iterator[Architecture]:
        """Yield every distinct architecture once."""
        for width, stem, resolution in itertools.product(self.widths, self.stems, self.resolutions):
            for ops in self._points(1):
                size = (resolution, resolution)
                yield Architecture(self.backbone, width, ops, stem, size, self.num_classes, self.in_channels)

    def random(self, rng: Random) -> Architecture:
        """Draw an architecture: every active choice uniformly."""
        return self.architecture(self._complete({}, rng))

    def mutate(self, architecture: Architecture, rng: Random) -> Architecture:
        """Return an architecture that differs in one choice; what this activates is drawn uniformly.

        Raises:
            ValueError: The architecture is not a point of the space, or the space holds no other.
        """
        if self.size == 1:
            raise ValueError("the space holds one architecture; it has no mutation")
        sample = self.sample(architecture)
        while True:
            label = rng.choice(sorted(sample))
            choice = next(choice for choice in self.choices if choice.label == label)
            value = rng.choice([value for value in choice.values if value != sample[label]])
            mutated = self.architecture(self._complete({**sample, label: value}, rng))
            # Exchanging two skips, say, is no change of the network.
            if mutated != architecture:
                return mutated

    def _complete(self, sample: Mapping[str, Value], rng: Random) -> Sample:
        """Keep the active labels of a partial sample and draw those that it lacks."""
        complete: Sample = {}
        for choice in self.choices:
            if choice.active(complete):
                given = sample.get(choice.label)
                complete[choice.label] = rng.choice(choice.values) if given is None else given
        return complete

    # Costs

    def cost(self, architecture: Architecture) -> Cost:
        """Return MACs and parameters of an architecture at its native size, from closed forms."""
        return architecture_cost(architecture)

    def minimum(self, metric: Literal["macs", "params"], image_size: int | None = None) -> int:
        """Return the smallest cost that the space reaches, exactly.

        Args:
            metric: ``"macs"`` or ``"params"``.
            image_size: Size at which it is counted; by default each architecture's own.
        """
        return min(
            self._minimum_of(width, stem, resolution, metric, image_size)
            for width, stem, resolution in itertools.product(self.widths, self.stems, self.resolutions)
        )

    def _minimum_of(self, width: float, stem: str, resolution: int, metric: str, image_size: int | None) -> int:
        # Costs add up block by block and no block depends on another's op, so the minimum is taken block by block.
        layout = self.full_layout(width, stem, resolution, image_size)

        def cost(block: BlockSpec) -> int:
            value: int = getattr(self._family.block_cost(block), metric)
            return value

        total = cost(layout.stem) + cost(layout.head)
        for stage, blocks in enumerate(layout.stages, 1):
            cheapest = [
                min(cost(block.with_op(op)) for op in self._block_candidates[f"s{stage}_b{position}"])
                for position, block in enumerate(blocks)
            ]
            total += min(sum(cheapest[: self._blocks(depth)]) for depth in self.depths[stage - 1])
        return total

    def full_layout(self, width: float, stem: str, resolution: int, image_size: int | None = None) -> Layout:
        """Return the blocks of the deepest network of this width, stem and resolution; the ops are placeholders.

        Args:
            width: Width multiplier.
            stem: Stem.
            resolution: Native image size.
            image_size: Size for which the network is rebuilt, see :meth:`Architecture.at_size`.
        """
        stages = tuple(
            tuple(self._block_candidates[f"s{stage}_b{position}"][0] for position in range(self._blocks(max(depths))))
            for stage, depths in enumerate(self.depths, 1)
        )
        architecture = Architecture(
            self.backbone,
            width,
            stages,
            stem,
            (resolution, resolution),
            self.num_classes,
            self.in_channels,
        )
        return self._family.layout(architecture if image_size is None else architecture.at_size(image_size))

    def candidates(self, label: str) -> tuple[str, ...]:
        """Return the candidate ops of a block, such as ``"s1_b0"``."""
        return self._block_candidates[label]

    # Stages

    def _blocks(self, depth: int) -> int:
        return self._family.leading_blocks + depth

    @cached_property
    def _block_candidates(self) -> dict[str, tuple[str, ...]]:
        """Candidate ops by block, those that fit there at every width, stem and resolution."""
        fitting: dict[str, tuple[str, ...]] = {}
        stages = tuple((self.ops[0],) * self._blocks(max(depths)) for depths in self.depths)
        for width, stem, resolution in itertools.product(self.widths, self.stems, self.resolutions):
            architecture = Architecture(
                self.backbone, width, stages, stem, (resolution,) * 2, self.num_classes, self.in_channels
            )
            for stage, blocks in enumerate(self._family.layout(architecture).stages, 1):
                for position, block in enumerate(blocks):
                    label = f"s{stage}_b{position}"
                    # The first block of a stage sets its shape: it is never left out.
                    ops = self.ops if position else tuple(op for op in self.ops if op != "skip")
                    fitting[label] = self._family.candidates(block, fitting.get(label, ops))
        return fitting

    def _canonical_stage(self, ops: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(op for op in ops if op != "skip") if self._family.skip_removes_block else ops

    def _stage_lengths(self, stage: int) -> list[int]:
        """Numbers of blocks that a stage's canonical form can have."""
        lengths = {self._blocks(depth) for depth in self.depths[stage - 1]}
        if self._family.skip_removes_block:
            for length in tuple(lengths):
                fixed = [p for p in range(length) if "skip" not in self._block_candidates[f"s{stage}_b{p}"]]
                lengths |= set(range(len(fixed), length))
        return sorted(lengths)

    def _points(self, stage: int) -> Iterator[tuple[tuple[str, ...], ...]]:
        """Yield the ops of this stage and those behind it, one combination at a time: a stage alone has millions."""
        if stage > len(self.depths):
            yield ()
            return
        for length in self._stage_lengths(stage):
            for ops in itertools.product(*self._slots(stage, length)):
                for rest in self._points(stage + 1):
                    yield (ops, *rest)

    def _stage_size(self, stage: int) -> int:
        return sum(
            math.prod(len(candidates) for candidates in self._slots(stage, length))
            for length in self._stage_lengths(stage)
        )

    def _slots(self, stage: int, length: int) -> list[tuple[str, ...]]:
        slots = [self._block_candidates[f"s{stage}_b{position}"] for position in range(length)]
        return [self._canonical_stage(candidates) for candidates in slots]
