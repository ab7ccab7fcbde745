"""What a backbone family is: blocks as data, their modules, their costs, and the one network class over them."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor, nn

from dicenas.architecture import Architecture
from dicenas.ops import (
    CandidateArguments,
    ConvNormAct,
    Cost,
    build_candidate,
    candidate_cost,
    conv_norm_act_cost,
    parse_candidate,
)
from dicenas.spelling import did_you_mean

__all__ = [
    "Backbone",
    "BlockSpec",
    "Layout",
    "Network",
    "architecture_cost",
    "build",
    "get_backbone",
    "half",
    "list_backbones",
    "register_backbone",
    "stage_behind",
]


@dataclass(frozen=True)
class BlockSpec:
    """One block of a network as data: all that its module and its cost depend on.

    Attributes:
        kind: What the block is, in the backbone's own terms (``"stem"``, ``"unit"``, ``"head"``, ...).
        in_channels: Channels of the input.
        out_channels: Channels of the output; for the head, the number of classes.
        in_size: ``(H, W)`` of the input.
        size: ``(H, W)`` of the output; for the head, of its input.
        stride: Reduction of the size.
        op: What an architecture calls the block: its candidate op, with more behind it where the family has more to
            choose (:meth:`Backbone.candidate`). ``None`` where it holds no op.
        hidden_channels: Channels inside the block, where they are not given by the others.
        dropout: Dropout probability of the head.
        activation: Activation of the stage, where it is not the family's.
    """

    kind: str
    in_channels: int
    out_channels: int
    in_size: tuple[int, int]
    size: tuple[int, int]
    stride: int = 1
    op: str | None = None
    hidden_channels: int = 0
    dropout: float = 0.0
    activation: str = ""


@dataclass(frozen=True)
class Layout:
    """The blocks of a network: stem, stages of blocks, head."""

    stem: BlockSpec
    stages: tuple[tuple[BlockSpec, ...], ...]
    head: BlockSpec

    @property
    def blocks(self) -> tuple[BlockSpec, ...]:
        """All blocks in the order in which an image passes them."""
        return (self.stem, *(block for stage in self.stages for block in stage), self.head)


class Backbone(ABC):
    """A family of networks: stem, stages of blocks that each hold a candidate op, head.

    A subclass says which blocks an architecture has (:meth:`layout`), and builds and costs a block. Plain networks,
    NNI spaces, costs and latency tables all read these three.

    Attributes:
        name: Name in configurations and architectures.
        summary: One line for listings.
        activation: Activation of the family.
        leading_blocks: Blocks of a stage that its depth does not count (the down-sampling unit of ShuffleNetV2).
        skip_removes_block: Whether ``skip`` makes a whole block the identity, so that leaving the block out is the
            same network.
        widths: Widths that a space searches by default.
        depths: Depth choices of each stage that a space searches by default.
        ops: Candidate ops that a space searches by default.
        expansions: Expansions that a space searches by default; empty where those of the family are fixed. A family
            with a choice of expansions has one of activations as well.
        norm_eps: Number added to the variance in the family's normalisations.
        norm_momentum: Momentum of their running statistics.
    """

    name: str
    summary: str
    activation: str
    leading_blocks: int
    skip_removes_block: bool
    widths: tuple[float, ...]
    depths: tuple[tuple[int, ...], ...]
    ops: tuple[str, ...] = ("separable", "separable_se", "dice", "skip")
    expansions: tuple[float, ...] = ()
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1

    @property
    def num_stages(self) -> int:
        """Number of stages."""
        return len(self.depths)

    def check_width(self, width: float) -> None:
        """Raise ``ValueError`` for a width multiplier that the family does not have."""
        if not 0.05 <= width <= 8:
            raise ValueError(f"{self.name}: width {width} is outside 0.05 to 8")

    @abstractmethod
    def layout(self, architecture: Architecture) -> Layout:
        """Return the blocks of an architecture, without checking that its ops fit."""

    @abstractmethod
    def op_arguments(self, block: BlockSpec) -> CandidateArguments:
        """Return the arguments with which the block calls its candidate op."""

    @abstractmethod
    def build_block(self, block: BlockSpec) -> nn.Module:
        """Build the module of a block."""

    @abstractmethod
    def block_cost(self, block: BlockSpec) -> Cost:
        """Return the cost of a block in closed form."""

    def candidate(self, name: str) -> str:
        """Return the candidate op in a block that an architecture calls ``name``."""
        return name

    def block_names(
        self, stage: int, ops: Sequence[str], expansions: Sequence[float], activations: Sequence[str]
    ) -> tuple[str, ...]:
        """Return the names of the blocks that a space with these choices may put into a stage, fitting or not.

        Args:
            stage: Number of the stage, from 1.
            ops: Candidate ops.
            expansions: Expansions, where the family has a choice of them.
            activations: Activations, where the family has a choice of them; the stage's own when empty.
        """
        return tuple(ops)

    def block_with_op(self, block: BlockSpec, name: str) -> BlockSpec:
        """Return the block that stands in the place of another under the name ``name``."""
        return dataclasses.replace(block, op=name)

    def fitting(self, block: BlockSpec, names: Sequence[str]) -> tuple[str, ...]:
        """Return those of the names whose op can serve in the place of a block."""
        return tuple(name for name in names if self._fits(self.block_with_op(block, name)))

    def is_identity(self, name: str) -> bool:
        """Return whether the op in a block of this name is the identity."""
        return parse_candidate(self.candidate(name))[0].identity

    def is_left_out(self, name: str) -> bool:
        """Return whether a block of this name is left out of an architecture, since all of it is the identity."""
        return self.skip_removes_block and self.is_identity(name)

    def checked_layout(self, architecture: Architecture) -> Layout:
        """Return the blocks of an architecture.

        Raises:
            ValueError: A wrong number of stages, an empty stage, an unknown width, an op that does not exist or does
                not fit where it stands, or an identity that is to be left out: one network has one description.
        """
        self.check_width(architecture.width)
        if len(architecture.stages) != self.num_stages:
            raise ValueError(f"{self.name} has {self.num_stages} stages, got {len(architecture.stages)}")
        for number, stage in enumerate(architecture.stages, 1):
            if len(stage) < max(1, self.leading_blocks):
                raise ValueError(f"stage {number} of {self.name} has no block")
        layout = self.layout(architecture)
        for number, blocks in enumerate(layout.stages, 1):
            for position, block in enumerate(blocks):
                if not self._fits(block):
                    raise ValueError(
                        f"op {block.op!r} does not fit into block {position} of stage {number} of {self.name}: "
                        f"{block.in_channels} to {block.out_channels} channels, stride {block.stride}"
                    )
                if block.op is not None and self.is_left_out(block.op):
                    raise ValueError(
                        f"block {position} of stage {number} is {block.op!r}, which leaves a block of {self.name} out: "
                        "drop it from the stage, so that the network has one description"
                    )
        return layout

    def _fits(self, block: BlockSpec) -> bool:
        assert block.op is not None
        op, _ = parse_candidate(self.candidate(block.op))
        return op.supports is None or op.supports(self.op_arguments(block))

    def _build_op(self, block: BlockSpec, final_activation: bool) -> nn.Module:
        assert block.op is not None
        a = self.op_arguments(block)
        candidate = self.candidate(block.op)
        return build_candidate(
            candidate, a.in_channels, a.out_channels, a.stride, a.size, a.activation, final_activation
        )

    def _op_cost(self, block: BlockSpec) -> Cost:
        assert block.op is not None
        return candidate_cost(self.candidate(block.op), self.op_arguments(block))

    def _own_entry(self, block: BlockSpec, in_channels: int, out_channels: int) -> nn.Module | None:
        """Build what the op of a block puts in place of its first point-wise convolution, if anything."""
        assert block.op is not None
        entry = parse_candidate(self.candidate(block.op))[0].entry
        if entry is None:
            return None
        return entry.build(in_channels, out_channels, block.in_size, self.op_arguments(block).activation)

    def _build_entry(self, block: BlockSpec, in_channels: int, out_channels: int) -> nn.Module:
        """Build the first point-wise convolution of a block, or what its op puts in its place."""
        own = self._own_entry(block, in_channels, out_channels)
        if own is not None:
            return own
        return ConvNormAct(in_channels, out_channels, 1, activation=self.op_arguments(block).activation)

    def _entry_cost(self, block: BlockSpec, in_channels: int, out_channels: int) -> Cost:
        assert block.op is not None
        entry = parse_candidate(self.candidate(block.op))[0].entry
        activation = self.op_arguments(block).activation
        if entry is not None:
            return entry.cost(in_channels, out_channels, block.in_size, activation)
        return conv_norm_act_cost(in_channels, out_channels, 1, block.in_size, activation=activation)


_BACKBONES: dict[str, Backbone] = {}


def register_backbone(backbone: Backbone) -> None:
    """Add a backbone family under its name.

    Raises:
        ValueError: The name is taken.
    """
    if backbone.name in _BACKBONES:
        raise ValueError(f"backbone {backbone.name!r} is already registered")
    _BACKBONES[backbone.name] = backbone


def list_backbones() -> list[str]:
    """Return the names of all backbone families, sorted."""
    return sorted(_BACKBONES)


def get_backbone(name: str) -> Backbone:
    """Return the backbone family called ``name``.

    Raises:
        ValueError: There is none; the message names the nearest one.
    """
    if name not in _BACKBONES:
        known = ", ".join(list_backbones())
        raise ValueError(f"unknown backbone {name!r}{did_you_mean(name, _BACKBONES)} (known: {known})")
    return _BACKBONES[name]


class Network(nn.Module):
    """A plain network: images ``(N, C, H, W)`` to logits ``(N, num_classes)``.

    Args:
        architecture: What to build; see :func:`build`.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        backbone = get_backbone(architecture.backbone)
        layout = backbone.checked_layout(architecture)
        self.architecture = architecture
        self.stem = backbone.build_block(layout.stem)
        self.stages = nn.Sequential(
            *(nn.Sequential(*(backbone.build_block(block) for block in stage)) for stage in layout.stages)
        )
        self.head = backbone.build_block(layout.head)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stages(self.stem(x)))
        return logits


def build(architecture: Architecture) -> Network:
    """Build the plain network of an architecture, with fresh weights.

    Raises:
        ValueError: The architecture names what does not exist or does not fit.
    """
    return Network(architecture)


@lru_cache(maxsize=65536)
def _block_cost(backbone: str, block: BlockSpec) -> Cost:
    return get_backbone(backbone).block_cost(block)


def architecture_cost(architecture: Architecture) -> Cost:
    """Return MACs and parameters of an architecture at its native size, from closed forms.

    Raises:
        ValueError: The architecture names what does not exist or does not fit.
    """
    layout = get_backbone(architecture.backbone).checked_layout(architecture)
    return sum((_block_cost(architecture.backbone, block) for block in layout.blocks), Cost())


def stage_behind(
    last: BlockSpec, kind: str, names: Sequence[str], out_channels: int, stride: int
) -> tuple[BlockSpec, ...]:
    """Return the blocks of a stage whose first one sets its channels and size.

    Args:
        last: The block in front of the stage.
        kind: Kind of the stage's blocks.
        names: What an architecture calls them.
        out_channels: Channels of the stage.
        stride: Stride of its first block.
    """
    blocks = []
    for name in names:
        size = half(last.size) if stride == 2 else last.size
        last = BlockSpec(kind, last.out_channels, out_channels, last.size, size, stride, name)
        blocks.append(last)
        stride = 1
    return tuple(blocks)


def half(size: tuple[int, int]) -> tuple[int, int]:
    """Return the size behind a layer of stride 2 with padding that keeps borders: rounded up."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2
