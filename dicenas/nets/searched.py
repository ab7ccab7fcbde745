"""The mobile networks that were found by search: inverted residuals whose expansion and activation are choices too.

MobileNetV3 (arXiv 1905.02244), MnasNet (arXiv 1807.11626) and MixNet (arXiv 1907.09595) differ in their stages, their
head and what stands in their blocks: each is a table over one backbone.

A block is called ``<candidate>_e<expansion>``, with ``_<activation>`` behind it where its activation is not that of
the stage: ``separable_hse_k5_e6``, ``mixed_k7_e3_relu``, ``dice_k3_e2.5``. Each block has one such name.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from torch import nn

from dicenas.architecture import Architecture
from dicenas.nets.backbone import BlockSpec, register_backbone
from dicenas.nets.heads import HiddenClassifier, hidden_classifier_cost
from dicenas.nets.inverted_residual import InvertedResidualBackbone, StagePlan
from dicenas.ops import Cost, list_ops, make_divisible, parse_candidate
from dicenas.ops.layers import ACTIVATIONS
from dicenas.spelling import did_you_mean

__all__ = [
    "BlockName",
    "MixNet",
    "MnasNet",
    "MobileNetV3Large",
    "MobileNetV3Small",
    "NamedBlocksBackbone",
    "check_block_name",
    "mixnet_architecture",
    "mnasnet_architecture",
    "mobilenetv3_architecture",
    "parse_block_name",
]

_NAME = re.compile(r"(?P<candidate>.+)_e(?P<expansion>\d+(?:\.\d+)?)(?:_(?P<activation>[a-z][a-z0-9_]*))?")
_LEAST_EXPANSION, _MOST_EXPANSION = 0.1, 32.0


@dataclass(frozen=True)
class BlockName:
    """What the name of a block says.

    Attributes:
        candidate: Candidate op.
        expansion: Channels that the op works on, as a multiple of the block's input; ``None`` for an identity.
        activation: Activation, ``None`` for that of the stage.
    """

    candidate: str
    expansion: float | None = None
    activation: str | None = None

    def __str__(self) -> str:
        if self.expansion is None:
            return self.candidate
        return f"{self.candidate}_e{self.expansion:g}" + (f"_{self.activation}" if self.activation else "")


@lru_cache(maxsize=4096)
def parse_block_name(name: str) -> BlockName:
    """Read the name of a block, such as ``"separable_k3_e6"``, ``"dice_k5_e3_relu"`` or ``"skip"``.

    Whether there is such a block is :func:`check_block_name`'s matter: a report shows also ops that are not registered.
    """
    match = _NAME.fullmatch(name)
    return BlockName(match["candidate"], float(match["expansion"]), match["activation"]) if match else BlockName(name)


@lru_cache(maxsize=4096)
def check_block_name(name: str) -> None:
    """Check the name of a block.

    Raises:
        ValueError: Its op, expansion or activation does not exist, or it is another spelling of a name.
    """
    parsed = parse_block_name(name)
    if parsed.expansion is None:
        if name in list_ops() and parse_candidate(name)[0].identity:
            return
        raise ValueError(
            f"block {name!r} has no expansion: blocks are called <candidate>_e<expansion>, such as separable_k3_e6, "
            "with _<activation> behind it where it is not the stage's"
        )
    if parse_candidate(parsed.candidate)[0].identity:
        raise ValueError(f"block {name!r}: {parsed.candidate} is the identity, whatever its expansion; write its name")
    if str(parsed) != name:
        raise ValueError(f"block {name!r} should be written {str(parsed)!r}")
    _check_expansion(parsed.expansion)
    if parsed.activation is not None and parsed.activation not in ACTIVATIONS:
        known = ", ".join(sorted(ACTIVATIONS))
        hint = did_you_mean(parsed.activation, ACTIVATIONS)
        raise ValueError(f"block {name!r}: unknown activation {parsed.activation!r}{hint} (known: {known})")


def _check_expansion(expansion: float) -> None:
    if not _LEAST_EXPANSION <= expansion <= _MOST_EXPANSION:
        raise ValueError(f"expansion {expansion:g} is outside {_LEAST_EXPANSION:g} to {_MOST_EXPANSION:g}")


class NamedBlocksBackbone(InvertedResidualBackbone):
    """A family of networks of inverted residuals whose ops, expansions and activations are choices.

    Attributes:
        hidden_classifier: Whether the features in front of the classifier are those of a hidden layer, fewer in
            narrower networks, behind a convolution with six times the channels of its input (MobileNetV3); otherwise
            they are those of the convolution.
    """

    ops: tuple[str, ...] = ("separable", "separable_hse", "mixed_k5", "mixed_k7", "dice", "skip")
    expansions: tuple[float, ...] = (3.0, 4.0, 6.0)
    hidden_classifier: bool = False

    def candidate(self, name: str) -> str:
        return parse_block_name(name).candidate

    def block_names(
        self, stage: int, ops: Sequence[str], expansions: Sequence[float], activations: Sequence[str]
    ) -> tuple[str, ...]:
        usual = self.stages[stage - 1].activation
        for expansion in expansions:
            _check_expansion(expansion)
        suffixes = [None if activation == usual else activation for activation in activations or (usual,)]
        names: list[str] = []
        for op in ops:
            if parse_candidate(op)[0].identity:
                names.append(op)
            else:
                names += [str(BlockName(op, *choices)) for choices in itertools.product(expansions, suffixes)]
        return tuple(names)

    def block_with_op(self, block: BlockSpec, name: str) -> BlockSpec:
        hidden = _hidden_channels(block.in_channels, name)
        return dataclasses.replace(block, op=name, hidden_channels=hidden)

    def _hidden_channels(self, plan: StagePlan, in_channels: int, name: str) -> int:
        return _hidden_channels(in_channels, name)

    def _activation(self, block: BlockSpec) -> str:
        assert block.op is not None
        return parse_block_name(block.op).activation or block.activation

    def _fits(self, block: BlockSpec) -> bool:
        assert block.op is not None
        check_block_name(block.op)
        parsed = parse_block_name(block.op)
        if parsed.activation == block.activation:
            short = dataclasses.replace(parsed, activation=None)
            raise ValueError(f"block {block.op!r}: its stage has {parsed.activation} anyway; write {str(short)!r}")
        return super()._fits(block)

    def _head_features(self, width: float) -> int:
        return make_divisible(self.head_channels * width) if self.hidden_classifier else self.head_channels

    def _build_head(self, block: BlockSpec) -> nn.Module:
        if not self.hidden_classifier:
            return super()._build_head(block)
        channels, features, classes = block.in_channels, block.hidden_channels, block.out_channels
        return HiddenClassifier(channels, 6 * channels, features, classes, block.dropout, self.activation)

    def _head_cost(self, block: BlockSpec) -> Cost:
        if not self.hidden_classifier:
            return super()._head_cost(block)
        channels, features, classes = block.in_channels, block.hidden_channels, block.out_channels
        return hidden_classifier_cost(channels, 6 * channels, features, classes, block.size, self.activation)


def _hidden_channels(in_channels: int, name: str) -> int:
    """Return the channels on which the op in a block of this name works, 0 for an identity."""
    expansion = parse_block_name(name).expansion
    return 0 if expansion is None else make_divisible(in_channels * expansion)


def _stage(
    channels: int, stride: int, activation: str, published: tuple[str, ...], depths: tuple[int, ...]
) -> StagePlan:
    return StagePlan(channels, stride, published, depths, activation=activation)


class MobileNetV3Large(NamedBlocksBackbone):
    """MobileNetV3-Large (arXiv 1905.02244, Table 1)."""

    name = "mobilenetv3_large"
    summary = "inverted residuals, each with op, expansion and activation; MobileNetV3-Large is a point of it"
    activation = "hardswish"
    norm_eps = 1e-3
    norm_momentum = 0.01
    stem_channels = 16
    hidden_classifier = True
    head_channels = 1280
    stages = (
        _stage(16, 1, "relu", ("separable_k3_e1",), (1,)),
        _stage(24, 2, "relu", ("separable_k3_e4", "separable_k3_e3"), (1, 2)),
        _stage(40, 2, "relu", ("separable_hse_k5_e3",) * 3, (2, 3)),
        _stage(80, 2, "hardswish", ("separable_k3_e6", "separable_k3_e2.5", *("separable_k3_e2.3",) * 2), (2, 3, 4)),
        _stage(112, 1, "hardswish", ("separable_hse_k3_e6",) * 2, (1, 2)),
        _stage(160, 2, "hardswish", ("separable_hse_k5_e6",) * 3, (2, 3)),
    )


class MobileNetV3Small(NamedBlocksBackbone):
    """MobileNetV3-Small (arXiv 1905.02244, Table 2)."""

    name = "mobilenetv3_small"
    summary = "the same blocks in a smaller table; MobileNetV3-Small is a point of it"
    activation = "hardswish"
    norm_eps = 1e-3
    norm_momentum = 0.01
    stem_channels = 16
    hidden_classifier = True
    head_channels = 1024
    stages = (
        _stage(16, 2, "relu", ("separable_hse_k3_e1",), (1,)),
        _stage(24, 2, "relu", ("separable_k3_e4.5", "separable_k3_e3.67"), (1, 2)),
        _stage(40, 2, "hardswish", ("separable_hse_k5_e4", *("separable_hse_k5_e6",) * 2), (1, 2, 3)),
        _stage(48, 1, "hardswish", ("separable_hse_k5_e3",) * 2, (1, 2)),
        _stage(96, 2, "hardswish", ("separable_hse_k5_e6",) * 3, (2, 3)),
    )


class MnasNet(NamedBlocksBackbone):
    """MnasNet-B1 (arXiv 1807.11626, Section 5.1; the variant without squeeze-and-excitation)."""

    name = "mnasnet"
    summary = "the same blocks in MnasNet's table; MnasNet-B1 is a point of it"
    activation = "relu"
    # Published for TensorFlow as a decay of 0.9997.
    norm_momentum = 1 - 0.9997
    stem_channels = 32
    head_channels = 1280
    stages = (
        _stage(16, 1, "relu", ("separable_k3_e1",), (1,)),
        _stage(24, 2, "relu", ("separable_k3_e3",) * 3, (1, 2, 3)),
        _stage(40, 2, "relu", ("separable_k5_e3",) * 3, (1, 2, 3)),
        _stage(80, 2, "relu", ("separable_k5_e6",) * 3, (2, 3)),
        _stage(96, 1, "relu", ("separable_k3_e6",) * 2, (1, 2)),
        _stage(192, 2, "relu", ("separable_k5_e6",) * 4, (2, 3, 4)),
        _stage(320, 1, "relu", ("separable_k3_e6",), (1,)),
    )


class MixNet(NamedBlocksBackbone):
    """MixNet in the stages of MixNet-S (arXiv 1907.09595, Figure 5).

    Its channels, kernels, expansions and activations are those of MixNet-S. The published network also has two groups
    in many point-wise convolutions, and gates of plain sigmoids with other bottlenecks: it is not a point.
    """

    name = "mixnet"
    summary = "the same blocks in MixNet-S's table, mixed kernels first"
    activation = "relu"
    ops = ("separable", "mixed", "mixed_hse", "dice", "skip")
    stem_channels = 16
    head_channels = 1536
    stages = (
        _stage(16, 1, "relu", ("separable_k3_e1",), (1,)),
        _stage(24, 2, "relu", ("separable_k3_e6", "separable_k3_e3"), (1, 2)),
        _stage(40, 2, "silu", ("mixed_hse_k7_e6", *("mixed_hse_k5_e6",) * 3), (2, 3, 4)),
        _stage(80, 2, "silu", ("mixed_hse_k7_e6", *("mixed_hse_k5_e6",) * 2), (2, 3)),
        _stage(120, 1, "silu", ("mixed_hse_k7_e6", *("mixed_hse_k9_e3",) * 2), (2, 3)),
        _stage(200, 2, "silu", ("mixed_hse_k11_e6", *("mixed_hse_k9_e6",) * 2), (2, 3)),
    )


_MOBILENETV3_LARGE, _MOBILENETV3_SMALL = MobileNetV3Large(), MobileNetV3Small()
_MNASNET, _MIXNET = MnasNet(), MixNet()
for _backbone in (_MOBILENETV3_LARGE, _MOBILENETV3_SMALL, _MNASNET, _MIXNET):
    register_backbone(_backbone)


def mobilenetv3_architecture(
    variant: Literal["large", "small"],
    width: float = 1.0,
    num_classes: int = 1000,
    image_size: int | tuple[int, int] = 224,
) -> Architecture:
    """Return MobileNetV3-Large or -Small as a point of its family.

    At widths other than 1 the expanded channels are multiples of the narrower input, where torchvision scales and
    rounds those of width 1: a few of them differ.
    """
    family = _MOBILENETV3_LARGE if variant == "large" else _MOBILENETV3_SMALL
    return family.published(width, num_classes, image_size)


def mnasnet_architecture(
    width: float = 1.0, num_classes: int = 1000, image_size: int | tuple[int, int] = 224
) -> Architecture:
    """Return MnasNet-B1 as a point of its family."""
    return _MNASNET.published(width, num_classes, image_size)


def mixnet_architecture(
    width: float = 1.0, num_classes: int = 1000, image_size: int | tuple[int, int] = 224
) -> Architecture:
    """Return the network of the family that has the kernels, expansions and activations of MixNet-S.

    It is not MixNet-S itself; see :class:`MixNet`.
    """
    return _MIXNET.published(width, num_classes, image_size)
