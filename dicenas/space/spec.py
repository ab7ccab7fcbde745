"""A search space as data: its choices, its architectures and what they cost."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any, Literal

from dicenas.architecture import STEMS, Architecture
from dicenas.nets.backbone import Backbone, BlockSpec, Layout, architecture_cost, get_backbone, list_backbones
from dicenas.ops import Cost, expand_candidates
from dicenas.ops.layers import ACTIVATIONS
from dicenas.space.choice import Choice, Sample, Value
from dicenas.space.stage import StageSpace, fitting_stages
from dicenas.spelling import did_you_mean

__all__ = ["SpaceSpec"]

#: Keys of a ``space:`` section.
_KEYS = ("backbone", "ops", "widths", "depths", "stem", "resolutions", "expansions", "activations", "block_ops")


@dataclass(frozen=True)
class SpaceSpec:
    """A space of architectures over one backbone: block by block, depth by stage, width, stem and resolution.

    A block is chosen by the candidate op in it; where the backbone has a choice of expansions, a block is an op with
    an expansion and an activation, and any of them may stand with any other.

    Attributes:
        backbone: Name of the backbone family.
        ops: Candidate ops, an op's name standing for all its kernel sizes; the backbone's usual ones when empty.
        widths: Width multipliers; the backbone's usual ones when empty.
        depths: Depth choices of each stage; the backbone's usual ones when empty.
        stems: Stems, of ``"imagenet"`` and ``"small"``.
        resolutions: Native image sizes ``H = W`` in pixels.
        num_classes: Classes of the classifier.
        in_channels: Channels of the image.
        expansions: Expansions of the blocks; the backbone's usual ones when empty.
        activations: Activations in the blocks; those of the backbone's stages when empty.
        block_ops: Candidate ops of single blocks, by label such as ``"s1_b0"``, in place of ``ops``. Kept as pairs of
            label and names.

    Raises:
        ValueError: Something in it does not exist or is empty, or the backbone has no such choice.

    Example:
        >>> space = SpaceSpec("shufflenetv2", ops=("separable", "dice"))
        >>> architecture = space.random(Random(0))
        >>> space.cost(architecture).macs
    """

    backbone: str
    ops: tuple[str, ...] = ()
    widths: tuple[float, ...] = ()
    depths: tuple[tuple[int, ...], ...] = ()
    stems: tuple[str, ...] = ("imagenet",)
    resolutions: tuple[int, ...] = (224,)
    num_classes: int = 1000
    in_channels: int = 3
    expansions: tuple[float, ...] = ()
    activations: tuple[str, ...] = ()
    block_ops: Mapping[str, Sequence[str]] | tuple[tuple[str, tuple[str, ...]], ...] = ()
    _family: Backbone = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        family = get_backbone(self.backbone)
        for name, kind, expected in (
            ("ops", str, "names"),
            ("widths", int | float, "numbers"),
            ("depths", Sequence, "lists"),
            ("stems", str, "names"),
            ("expansions", int | float, "numbers"),
            ("activations", str, "names"),
        ):
            values = getattr(self, name)
            listed = isinstance(values, Sequence) and not isinstance(values, str)
            if not listed or not all(isinstance(value, kind) for value in values):
                raise ValueError(f"{name} should be a list of {expected}, got {values!r}")
        set_field = object.__setattr__
        set_field(self, "_family", family)
        set_field(self, "ops", expand_candidates(self.ops or family.ops))
        set_field(self, "widths", tuple(float(width) for width in self.widths) or family.widths)
        set_field(self, "depths", tuple(tuple(depths) for depths in self.depths) or family.depths)
        set_field(self, "stems", tuple(self.stems))
        set_field(self, "resolutions", tuple(self.resolutions))
        if not family.expansions and (self.expansions or self.activations):
            given = "expansions" if self.expansions else "activations"
            raise ValueError(f"{self.backbone} has no choice of {given}: those of its blocks are fixed")
        set_field(self, "expansions", tuple(float(value) for value in self.expansions) or family.expansions)
        set_field(self, "activations", tuple(self.activations))
        set_field(self, "block_ops", self._expanded_block_ops())
        self._check(family)

    def _expanded_block_ops(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        if not isinstance(self.block_ops, Mapping | tuple):
            raise ValueError(f"block_ops should map labels of blocks to lists of ops, got {self.block_ops!r}")
        given = dict(self.block_ops)
        for label, ops in given.items():
            if isinstance(ops, str) or not isinstance(ops, Sequence) or not ops:
                raise ValueError(f"block_ops of {label}: should be a list of ops, got {ops!r}")
        return tuple(sorted((str(label), expand_candidates(ops)) for label, ops in given.items()))

    def _check(self, family: Backbone) -> None:
        for name in ("widths", "stems", "resolutions"):
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
        for name in ("expansions", "activations"):
            if values := getattr(self, name):
                self._check_values(name, values)
        for activation in self.activations:
            if activation not in ACTIVATIONS:
                known = ", ".join(sorted(ACTIVATIONS))
                hint = did_you_mean(activation, ACTIVATIONS)
                raise ValueError(f"unknown activation {activation!r}{hint} (known: {known})")
        for stage in self._stages:
            for label, candidates in zip(stage.labels, stage.candidates, strict=True):
                if not candidates:
                    ops = dict(self.block_ops).get(label, self.ops)
                    raise ValueError(f"none of the ops {', '.join(ops)} fits into block {label}")
        self._check_block_ops()

    def _check_block_ops(self) -> None:
        labels = [label for stage in self._stages for label in stage.labels]
        for label in dict(self.block_ops):
            if label not in labels:
                hint = did_you_mean(label, labels)
                raise ValueError(f"block_ops: there is no block {label!r}{hint} (there are {', '.join(labels)})")
        for stage in self._stages:
            left_out = [bool(set(stage.identities) & set(names)) for names in stage.candidates]
            behind = stage.candidates[left_out.index(True) :] if True in left_out else ()
            # Blocks behind one that is left out move up: they must be allowed there.
            if self.block_ops and len({frozenset(names) - set(stage.identities) for names in behind}) > 1:
                raise ValueError(
                    f"block_ops: a block of stage {stage.number} may be left out ({', '.join(stage.identities)}), "
                    "and those behind it move up; give them all the same ops"
                )

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
        name or a list), ``resolutions``, ``expansions``, ``activations`` and ``block_ops`` (a mapping).

        Args:
            section: The section, or only the name of a backbone under ``backbone``.
            num_classes: Classes of the data.
            image_size: Size of the training images, the resolution unless the section searches it.
            in_channels: Channels of the images.

        Raises:
            ValueError: As the class; unknown keys too.
        """
        for key in section:
            if key not in _KEYS:
                raise ValueError(f"unknown key {key!r}{did_you_mean(key, _KEYS)} (known: {', '.join(_KEYS)})")
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
            ops=values("ops"),
            widths=values("widths"),
            depths=values("depths"),
            stems=(stem,) if isinstance(stem, str) else values("stem"),
            resolutions=values("resolutions") or (image_size,),
            num_classes=num_classes,
            in_channels=in_channels,
            expansions=values("expansions"),
            activations=values("activations"),
            block_ops=section.get("block_ops", ()),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the space as plain data."""
        described: dict[str, Any] = {
            "backbone": self.backbone,
            "ops": list(self.ops),
            "widths": list(self.widths),
            "depths": [list(depths) for depths in self.depths],
            "stems": list(self.stems),
            "resolutions": list(self.resolutions),
            "num_classes": self.num_classes,
            "in_channels": self.in_channels,
        }
        if self._family.expansions:  # what a backbone has no choice of is no part of its spaces
            described |= {"expansions": list(self.expansions), "activations": list(self.activations)}
        if self.block_ops:
            described["block_ops"] = {label: list(ops) for label, ops in dict(self.block_ops).items()}
        return described

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SpaceSpec:
        """Read what :meth:`to_dict` gives.

        Raises:
            ValueError: A field is missing or unknown, or as the class.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"a space is a mapping, got {type(data).__name__}")
        fields = {field.name for field in dataclasses.fields(cls) if field.init}
        optional = {"expansions", "activations", "block_ops"}
        missing, unknown = sorted(fields - optional - set(data)), sorted(set(data) - fields)
        if missing or unknown:
            raise ValueError(f"space: missing fields {missing}, unknown fields {unknown}")
        try:
            return cls(**data)
        except TypeError as error:
            raise ValueError(f"space: a field has the wrong kind of value ({error})") from error

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
        for stage in self._stages:
            choices += stage.choices()
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
        resolution = int(sample.get("resolution", self.resolutions[0]))
        return Architecture(
            backbone=self.backbone,
            width=float(sample.get("width", self.widths[0])),
            stages=tuple(stage.stage(sample) for stage in self._stages),
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
        for stage, names in zip(self._stages, architecture.stages, strict=False):
            sample.update(stage.sample(names))
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
        return shared * math.prod(stage.size for stage in self._stages)

    def enumerate(self) -> Iterator[Architecture]:
        """Yield every distinct architecture once."""
        for width, stem, resolution in itertools.product(self.widths, self.stems, self.resolutions):
            for stages in _combinations(self._stages):
                yield self._architecture(width, stages, stem, resolution)

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
        for stage, blocks in zip(self._stages, layout.stages, strict=True):
            cheapest = [
                min(cost(self._family.block_with_op(block, name)) for name in candidates)
                for block, candidates in zip(blocks, stage.candidates, strict=True)
            ]
            total += min(sum(cheapest[: stage.blocks(depth)]) for depth in stage.depths)
        return total

    def full_layout(self, width: float, stem: str, resolution: int, image_size: int | None = None) -> Layout:
        """Return the blocks of the deepest network of this width, stem and resolution; the ops are placeholders.

        Args:
            width: Width multiplier.
            stem: Stem.
            resolution: Native image size.
            image_size: Size for which the network is rebuilt, see :meth:`Architecture.at_size`.
        """
        stages = tuple(tuple(candidates[0] for candidates in stage.candidates) for stage in self._stages)
        architecture = self._architecture(width, stages, stem, resolution)
        return self._family.layout(architecture.at_size(image_size))

    def candidates(self, label: str) -> tuple[str, ...]:
        """Return the names that a block, such as ``"s1_b0"``, may have."""
        return self._by_label[label]

    # Stages

    def _architecture(
        self, width: float, stages: tuple[tuple[str, ...], ...], stem: str, resolution: int
    ) -> Architecture:
        size = (resolution, resolution)
        return Architecture(self.backbone, width, stages, stem, size, self.num_classes, self.in_channels)

    def _block_names(self, stage: int, position: int) -> tuple[str, ...]:
        ops = dict(self.block_ops).get(f"s{stage}_b{position}", self.ops)
        return self._family.block_names(stage, ops, self.expansions, self.activations)

    @cached_property
    def _by_label(self) -> dict[str, tuple[str, ...]]:
        return {
            label: candidates
            for stage in self._stages
            for label, candidates in zip(stage.labels, stage.candidates, strict=True)
        }

    @cached_property
    def _stages(self) -> tuple[StageSpace, ...]:
        """The stages with what fits into their blocks at every width, stem and resolution."""
        settings = itertools.product(self.widths, self.stems, self.resolutions)

        def layouts(stages: tuple[tuple[str, ...], ...]) -> Iterator[Layout]:
            return (self._family.layout(self._architecture(w, stages, stem, size)) for w, stem, size in settings)

        return fitting_stages(self._family, self.depths, self._block_names, layouts)


def _combinations(stages: Sequence[StageSpace]) -> Iterator[tuple[tuple[str, ...], ...]]:
    """Yield the stages of each network, one network at a time: a stage alone has millions of points."""
    if not stages:
        yield ()
        return
    for point in stages[0].points():
        for rest in _combinations(stages[1:]):
            yield (point, *rest)
