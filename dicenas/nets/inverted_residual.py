"""The inverted residual (MobileNetV2, arXiv 1801.04381), and what all families of them have in common."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from dicenas.architecture import Architecture, size_pair
from dicenas.nets.backbone import Backbone, BlockSpec, Layout, stage_behind
from dicenas.nets.heads import LinearClassifier, linear_classifier_cost
from dicenas.nets.stems import build_stem, conv_stem, stem_cost
from dicenas.ops import CandidateArguments, ConvNormAct, Cost, make_divisible, parse_candidate

__all__ = ["InvertedResidual", "InvertedResidualBackbone", "StagePlan"]


class InvertedResidual(nn.Module):
    """MobileNetV2's block: ``(N, C_in, H, W)`` to ``(N, C_out, H / stride, W / stride)``.

    A point-wise convolution expands, the candidate op filters and projects linearly; the input is added where the
    shape allows.

    Args:
        in_channels: Channels of the input.
        hidden_channels: Channels behind the expansion; no expansion where they equal ``in_channels``.
        out_channels: Channels of the output.
        stride: Stride of the op.
        op: Module that maps ``hidden_channels`` to ``out_channels`` with the stride, linear at its end.
        activation: Name of the activation behind the expansion.
        entry: Module in place of the expansion's point-wise convolution.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        stride: int,
        op: nn.Module,
        activation: str = "relu6",
        entry: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.expand: nn.Module = nn.Identity()
        if hidden_channels != in_channels:
            self.expand = (
                ConvNormAct(in_channels, hidden_channels, 1, activation=activation) if entry is None else entry
            )
        self.op = op
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.op(self.expand(x))
        return x + y if self.residual else y


@dataclass(frozen=True)
class StagePlan:
    """One row of a family's table.

    Attributes:
        channels: Channels of its blocks' outputs at width 1.
        stride: Stride of its first block.
        published: What the published network has in its blocks.
        depths: Depths that a space searches by default.
        expansion: Expansion of its blocks, where the family has no choice of it.
        activation: Activation in its blocks, where it is not that of the family.
    """

    channels: int
    stride: int
    published: tuple[str, ...]
    depths: tuple[int, ...]
    expansion: int = 0
    activation: str = ""


class InvertedResidualBackbone(Backbone):
    """A family of networks of inverted residuals, as a table of stages.

    The ``imagenet`` stem is a convolution of stride 2, the ``small`` one of stride 1. ``skip`` leaves a block out. All
    channels are multiples of 8.

    Attributes:
        stem_channels: Channels of the stem at width 1.
        stages: The table of stages.
        head_channels: Features in front of the classifier at width 1.
    """

    leading_blocks = 0
    skip_removes_block = True
    widths: tuple[float, ...] = (0.5, 0.75, 1.0)
    stem_channels: int
    stages: tuple[StagePlan, ...]
    head_channels: int

    def __init_subclass__(cls) -> None:
        if "stages" in vars(cls):
            cls.depths = tuple(stage.depths for stage in cls.stages)

    def published(
        self, width: float = 1.0, num_classes: int = 1000, image_size: int | tuple[int, int] = 224
    ) -> Architecture:
        """Return the published network of the family, at any width."""
        stages = tuple(stage.published for stage in self.stages)
        return Architecture(self.name, width, stages, image_size=size_pair(image_size), num_classes=num_classes)

    @abstractmethod
    def _head_features(self, width: float) -> int:
        """Return the features in front of the classifier."""

    def _hidden_channels(self, plan: StagePlan, in_channels: int, name: str) -> int:
        """Return the channels on which the op in a block of this name works."""
        return plan.expansion * in_channels

    def _activation(self, block: BlockSpec) -> str:
        """Return the activation in a block."""
        return block.activation or self.activation

    def layout(self, architecture: Architecture) -> Layout:
        width, classes = architecture.width, architecture.num_classes
        stem = conv_stem(architecture, make_divisible(self.stem_channels * width))
        last, stages = stem, []
        for names, plan in zip(architecture.stages, self.stages, strict=True):
            blocks = stage_behind(last, "inverted_residual", names, make_divisible(plan.channels * width), plan.stride)
            stages.append(tuple(self._planned(block, plan) for block in blocks))
            last = stages[-1][-1]
        features = self._head_features(width)
        head = BlockSpec(
            "head", last.out_channels, classes, last.size, last.size, hidden_channels=features, dropout=0.2
        )
        return Layout(stem, tuple(stages), head)

    def _planned(self, block: BlockSpec, plan: StagePlan) -> BlockSpec:
        assert block.op is not None
        hidden_channels = self._hidden_channels(plan, block.in_channels, block.op)
        return dataclasses.replace(block, hidden_channels=hidden_channels, activation=plan.activation)

    def op_arguments(self, block: BlockSpec) -> CandidateArguments:
        assert block.op is not None
        # An identity stands for the whole block, any other op for what follows the expansion.
        return CandidateArguments(
            block.in_channels if self.is_left_out(block.op) else block.hidden_channels,
            block.out_channels,
            block.stride,
            block.size,
            parse_candidate(self.candidate(block.op))[1],
            self._activation(block),
            False,
            block.in_size,
        )

    def build_block(self, block: BlockSpec) -> nn.Module:
        module = self._build(block)
        if (self.norm_eps, self.norm_momentum) != (Backbone.norm_eps, Backbone.norm_momentum):
            for child in module.modules():
                if isinstance(child, nn.BatchNorm2d):
                    child.eps, child.momentum = self.norm_eps, self.norm_momentum
        return module

    def _build(self, block: BlockSpec) -> nn.Module:
        if block.kind == "stem":
            return build_stem(block, self.activation)
        if block.kind == "head":
            return self._build_head(block)
        assert block.op is not None
        op = self._build_op(block, final_activation=False)
        if self.is_left_out(block.op):
            return op
        entry = None
        if block.hidden_channels != block.in_channels:
            entry = self._own_entry(block, block.in_channels, block.hidden_channels)
        return InvertedResidual(
            block.in_channels,
            block.hidden_channels,
            block.out_channels,
            block.stride,
            op,
            self._activation(block),
            entry,
        )

    def _build_head(self, block: BlockSpec) -> nn.Module:
        return LinearClassifier(
            block.in_channels, block.hidden_channels, block.out_channels, block.dropout, self.activation
        )

    def block_cost(self, block: BlockSpec) -> Cost:
        if block.kind == "stem":
            return stem_cost(block, self.activation)
        if block.kind == "head":
            return self._head_cost(block)
        assert block.op is not None
        if self.is_left_out(block.op) or block.hidden_channels == block.in_channels:
            return self._op_cost(block)
        return self._entry_cost(block, block.in_channels, block.hidden_channels) + self._op_cost(block)

    def _head_cost(self, block: BlockSpec) -> Cost:
        return linear_classifier_cost(
            block.in_channels, block.hidden_channels, block.out_channels, block.size, self.activation
        )
