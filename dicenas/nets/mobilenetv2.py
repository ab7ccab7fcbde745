"""MobileNetV2 (arXiv 1801.04381) with a candidate op in each inverted residual."""

from __future__ import annotations

from torch import Tensor, nn

from dicenas.architecture import Architecture
from dicenas.nets.backbone import Backbone, BlockSpec, Layout, half, register_backbone
from dicenas.nets.heads import LinearClassifier, linear_classifier_cost
from dicenas.ops import CandidateArguments, ConvNormAct, Cost, conv_norm_act_cost, parse_candidate

__all__ = [
    "InvertedResidual",
    "MobileNetV2",
    "make_divisible",
    "mobilenetv2_architecture",
]

#: Expansion, channels at width 1 and stride of each stage (Table 2), and the depths at which it was published.
_STAGES = ((1, 16, 1), (6, 24, 2), (6, 32, 2), (6, 64, 2), (6, 96, 1), (6, 160, 2), (6, 320, 1))
_PUBLISHED_DEPTHS = (1, 2, 3, 4, 3, 3, 1)


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round to a multiple of ``divisor``, at least one, and never down by more than a tenth."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


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


class MobileNetV2(Backbone):
    """MobileNetV2; the published network is the point with ``separable_k3`` everywhere and its depths.

    The ``imagenet`` stem is a convolution of stride 2, the ``small`` one of stride 1. ``skip`` leaves a block out.
    """

    name = "mobilenetv2"
    summary = "inverted residuals with a candidate op each; MobileNetV2 is a point of it"
    activation = "relu6"
    leading_blocks = 0
    skip_removes_block = True
    widths = (0.5, 0.75, 1.0)
    depths = ((1,), (1, 2), (2, 3), (2, 3, 4), (2, 3), (2, 3), (1,))

    def check_width(self, width: float) -> None:
        if not 0.05 <= width <= 8:
            raise ValueError(f"{self.name}: width {width} is outside 0.05 to 8")

    def layout(self, architecture: Architecture) -> Layout:
        width, image = architecture.width, architecture.image_size
        channels = make_divisible(32 * width)
        stride = 2 if architecture.stem == "imagenet" else 1
        size = half(image) if stride == 2 else image
        stem = BlockSpec("stem", architecture.in_channels, channels, image, size, stride)
        stages = []
        for ops, (expansion, base_channels, stage_stride) in zip(architecture.stages, _STAGES, strict=True):
            out_channels = make_divisible(base_channels * width)
            blocks = []
            for position, op in enumerate(ops):
                stride = stage_stride if position == 0 else 1
                in_size, size = size, half(size) if stride == 2 else size
                blocks.append(
                    BlockSpec(
                        "inverted_residual",
                        channels,
                        out_channels,
                        in_size,
                        size,
                        stride,
                        op,
                        hidden_channels=expansion * channels,
                    )
                )
                channels = out_channels
            stages.append(tuple(blocks))
        head = BlockSpec(
            "head",
            channels,
            architecture.num_classes,
            size,
            size,
            hidden_channels=make_divisible(1280 * max(1.0, width)),
            dropout=0.2,
        )
        return Layout(stem, tuple(stages), head)

    def op_arguments(self, block: BlockSpec) -> CandidateArguments:
        # An identity stands for the whole block, any other op for what follows the expansion.
        left_out = block.op is not None and self.is_left_out(block.op)
        in_channels = block.in_channels if left_out else block.hidden_channels
        kernel_size = parse_candidate(block.op)[1] if block.op else 1
        return CandidateArguments(
            in_channels,
            block.out_channels,
            block.stride,
            block.size,
            kernel_size,
            self.activation,
            False,
            block.in_size,
        )

    def build_block(self, block: BlockSpec) -> nn.Module:
        if block.kind == "stem":
            return ConvNormAct(block.in_channels, block.out_channels, 3, block.stride, activation=self.activation)
        if block.kind == "head":
            return LinearClassifier(
                block.in_channels, block.hidden_channels, block.out_channels, block.dropout, self.activation
            )
        op = self._build_op(block, final_activation=False)
        if block.op == "skip":
            return op
        entry = None
        if block.hidden_channels != block.in_channels:
            entry = self._own_entry(block, block.in_channels, block.hidden_channels)
        return InvertedResidual(
            block.in_channels, block.hidden_channels, block.out_channels, block.stride, op, self.activation, entry
        )

    def block_cost(self, block: BlockSpec) -> Cost:
        if block.kind == "stem":
            return conv_norm_act_cost(block.in_channels, block.out_channels, 3, block.size, activation=self.activation)
        if block.kind == "head":
            return linear_classifier_cost(
                block.in_channels, block.hidden_channels, block.out_channels, block.size, self.activation
            )
        if block.op == "skip" or block.hidden_channels == block.in_channels:
            return self._op_cost(block)
        return self._entry_cost(block, block.in_channels, block.hidden_channels) + self._op_cost(block)


register_backbone(MobileNetV2())


def mobilenetv2_architecture(
    width: float = 1.0, num_classes: int = 1000, image_size: int | tuple[int, int] = 224
) -> Architecture:
    """Return the published MobileNetV2 as a point of the family."""
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    stages = tuple(("separable_k3",) * depth for depth in _PUBLISHED_DEPTHS)
    return Architecture("mobilenetv2", width, stages, image_size=size, num_classes=num_classes)
