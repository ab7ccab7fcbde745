"""One stage of a space: how many blocks it may have, and which."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from dicenas.nets.backbone import Backbone, Layout
from dicenas.space.choice import Choice, Sample, Value

__all__ = ["StageSpace", "fitting_stages"]


@dataclass(frozen=True)
class StageSpace:
    """The stages that a space may put in one place of a network.

    A stage is the tuple of its blocks' names. Its canonical form leaves out blocks that are the identity.

    Attributes:
        number: Number of the stage, from 1.
        depths: Depth choices.
        leading_blocks: Blocks that the depth does not count.
        candidates: Names of the blocks that may stand at each position.
        identities: Names of blocks that are left out; the first one fills a stage up where one is needed.
    """

    number: int
    depths: tuple[int, ...]
    leading_blocks: int
    candidates: tuple[tuple[str, ...], ...]
    identities: tuple[str, ...]

    @cached_property
    def depth_label(self) -> str:
        """Label of the choice of the depth."""
        return f"s{self.number}_depth"

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Label of the choice of each block."""
        return tuple(f"s{self.number}_b{position}" for position in range(len(self.candidates)))

    def blocks(self, depth: int) -> int:
        """Return the number of blocks of a stage of this depth."""
        return self.leading_blocks + depth

    def choices(self) -> Iterator[Choice]:
        """Yield the choice of the depth, then those of the blocks, also where there is only one value."""
        yield Choice(self.depth_label, self.depths)
        for position, (label, candidates) in enumerate(zip(self.labels, self.candidates, strict=True)):
            deep_enough = tuple(depth for depth in self.depths if self.blocks(depth) > position)
            condition = None if deep_enough == self.depths else (self.depth_label, deep_enough)
            yield Choice(label, candidates, condition)

    def stage(self, sample: Mapping[str, Value]) -> tuple[str, ...]:
        """Return the stage of a sample, in canonical form."""
        blocks = self.blocks(int(sample.get(self.depth_label, self.depths[0])))
        places = zip(self.labels[:blocks], self.candidates[:blocks], strict=True)
        return self._canonical(tuple(str(sample.get(label, candidates[0])) for label, candidates in places))

    def sample(self, stage: tuple[str, ...]) -> Sample:
        """Return labels and values that give this stage, if any do: the caller checks."""
        # A stage from which identities were left out may be shorter than any depth: identities fill it up again.
        depth = min((d for d in self.depths if self.blocks(d) >= len(stage)), default=max(self.depths))
        stage += self.identities[:1] * (self.blocks(depth) - len(stage))
        return {self.depth_label: depth, **dict(zip(self.labels, stage, strict=False))}

    @cached_property
    def size(self) -> int:
        """Number of distinct stages."""
        return sum(math.prod(map(len, self._slots(length))) for length in self._lengths)

    def points(self) -> Iterator[tuple[str, ...]]:
        """Yield every distinct stage once."""
        for length in self._lengths:
            yield from itertools.product(*self._slots(length))

    def _canonical(self, stage: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in stage if name not in self.identities)

    @cached_property
    def _lengths(self) -> list[int]:
        """Numbers of blocks that the canonical form can have."""
        lengths = {self.blocks(depth) for depth in self.depths}
        for length in tuple(lengths):
            fixed = [names for names in self.candidates[:length] if not set(self.identities) & set(names)]
            lengths |= set(range(len(fixed), length))
        return sorted(lengths)

    def _slots(self, length: int) -> list[tuple[str, ...]]:
        return [self._canonical(candidates) for candidates in self.candidates[:length]]


def fitting_stages(
    family: Backbone,
    depths: Sequence[tuple[int, ...]],
    offered: Callable[[int, int], tuple[str, ...]],
    layouts: Callable[[tuple[tuple[str, ...], ...]], Iterable[Layout]],
) -> tuple[StageSpace, ...]:
    """Return the stages of a space, each block with those of its candidates that fit there in every network.

    Args:
        family: The backbone.
        depths: Depth choices of each stage.
        offered: Gives the names of the blocks offered for a stage, from 1, and a position in it.
        layouts: Gives the layouts that networks of these stages can have: one for each width, stem and resolution.
    """
    names = [
        [offered(number, position) for position in range(family.leading_blocks + max(choices))]
        for number, choices in enumerate(depths, 1)
    ]
    # The first block of a stage sets its shape: it is never left out.
    fitting = [
        [
            tuple(name for name in block if position or not family.is_identity(name))
            for position, block in enumerate(stage)
        ]
        for stage in names
    ]
    for layout in layouts(tuple(tuple(block[0] for block in stage) for stage in names)):
        for candidates, blocks in zip(fitting, layout.stages, strict=True):
            for position, block in enumerate(blocks):
                candidates[position] = family.fitting(block, candidates[position])
    return tuple(
        StageSpace(
            number,
            choices,
            family.leading_blocks,
            tuple(candidates),
            tuple(dict.fromkeys(name for block in stage for name in block if family.is_left_out(name))),
        )
        for number, (choices, candidates, stage) in enumerate(zip(depths, fitting, names, strict=True), 1)
    )
