"""Many architectures of a space at once, as a tensor: sums over their blocks without building anything."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from dicenas.architecture import Architecture
from dicenas.nets.backbone import BlockSpec, get_backbone
from dicenas.space.spec import SpaceSpec

__all__ = ["BlockSums", "VectorizedSpace"]


class VectorizedSpace:
    """The architectures of a space as rows of numbers, and the blocks that they consist of.

    A row has the number of the chosen value of each choice of the space, whether the choice is active or not.

    Args:
        space: The space.
        image_size: Size for which the networks are rebuilt, see :meth:`Architecture.at_size`; each one's own by
            default.

    Attributes:
        labels: Label of each column.
        blocks: All distinct blocks, in the order in which a network meets them.
    """

    def __init__(self, space: SpaceSpec, image_size: int | None = None) -> None:
        self.space = space
        self.image_size = image_size
        self.labels = tuple(choice.label for choice in space.choices)
        self._choices = {choice.label: choice for choice in space.choices}
        family = get_backbone(space.backbone)
        self._leading_blocks = family.leading_blocks
        self._bases: list[tuple[BlockSpec, BlockSpec]] = []  # stem and head by width, stem and resolution
        self._positions: dict[tuple[int, int], list[list[BlockSpec | None]]] = {}  # ... each with its candidates
        for width, stem, resolution in itertools.product(space.widths, space.stems, space.resolutions):
            layout = space.full_layout(width, stem, resolution, image_size)
            self._bases.append((layout.stem, layout.head))
            for stage, blocks in enumerate(layout.stages, 1):
                for position, block in enumerate(blocks):
                    names = space.candidates(f"s{stage}_b{position}")
                    self._positions.setdefault((stage, position), []).append(
                        [None if family.is_left_out(name) else family.block_with_op(block, name) for name in names]
                    )
        stems, heads = zip(*self._bases, strict=True)
        middle = (block for setting in self._positions.values() for names in setting for block in names)
        self.blocks = tuple(dict.fromkeys([*stems, *filter(None, middle), *heads]))

    def random(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw rows ``(count, len(labels))``, every choice uniformly."""
        columns = [
            torch.randint(len(choice.values), (count,), generator=generator) for choice in self._choices.values()
        ]
        return torch.stack(columns, 1) if columns else torch.empty(count, 0, dtype=torch.int64)

    def encode(self, architectures: Iterable[Architecture]) -> Tensor:
        """Return the rows of architectures.

        Raises:
            ValueError: An architecture is not a point of the space.
        """
        rows = []
        for architecture in architectures:
            sample = self.space.sample(architecture)
            rows.append(
                [
                    choice.values.index(sample[label]) if label in sample else 0
                    for label, choice in self._choices.items()
                ]
            )
        return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), len(self.labels))

    def decode(self, rows: Tensor) -> list[Architecture]:
        """Return the architectures of rows."""
        architectures = []
        for row in rows.tolist():
            values = {label: self._choices[label].values[code] for label, code in zip(self.labels, row, strict=True)}
            active = {label: value for label, value in values.items() if self._choices[label].active(values)}
            architectures.append(self.space.architecture(active))
        return architectures

    def sums(self, values: Callable[[BlockSpec], Sequence[float]]) -> BlockSums:
        """Prepare sums over the blocks of architectures.

        Args:
            values: What each block adds: one or several numbers.
        """
        return BlockSums(self, values)

    def _codes(self, rows: Tensor, label: str) -> Tensor:
        """Return the column of a choice; a choice of one value has none, and is always its first."""
        if label in self._choices:
            return rows[:, self.labels.index(label)]
        return torch.zeros(len(rows), dtype=torch.int64)


class BlockSums:
    """Sums of numbers over the blocks of architectures; made by :meth:`VectorizedSpace.sums`."""

    def __init__(self, vectorized: VectorizedSpace, values: Callable[[BlockSpec], Sequence[float]]) -> None:
        self._vectorized = vectorized
        cache: dict[BlockSpec, Tensor] = {}

        def of(block: BlockSpec | None) -> Tensor:
            if block is None:
                return torch.zeros_like(of(vectorized.blocks[0]))
            if block not in cache:
                cache[block] = torch.tensor(list(values(block)), dtype=torch.float64)
            return cache[block]

        self._bases = torch.stack([of(stem) + of(head) for stem, head in vectorized._bases])
        self._positions = {
            place: torch.stack([torch.stack([of(block) for block in names]) for names in settings])
            for place, settings in vectorized._positions.items()
        }

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the sums ``(N, number of values)`` of rows ``(N, number of choices)``."""
        vectorized, space = self._vectorized, self._vectorized.space
        setting = vectorized._codes(rows, "width")
        for label, values in (("stem", space.stems), ("resolution", space.resolutions)):
            setting = setting * len(values) + vectorized._codes(rows, label)
        total = self._bases[setting]
        for (stage, position), of_candidates in self._positions.items():
            added = of_candidates[setting, vectorized._codes(rows, f"s{stage}_b{position}")]
            depths = torch.tensor(space.depths[stage - 1])
            blocks = vectorized._leading_blocks + depths[vectorized._codes(rows, f"s{stage}_depth")]
            total = total + torch.where((blocks > position)[:, None], added, 0.0)
        return total
