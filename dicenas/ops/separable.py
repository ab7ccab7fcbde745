"""Depth-wise separable convolution, plain and with squeeze-and-excitation."""

from __future__ import annotations

from torch import Tensor, nn

from dicenas.ops.layers import ConvNormAct

__all__ = ["SeparableConv"]


class SeparableConv(nn.Module):
    """Depth-wise, then point-wise convolution: ``(N, C_in, H, W)`` to ``(N, C_out, H', W')``.

    There is one activation: behind the point-wise convolution (ShuffleNetV2, arXiv 1807.11164), or, where the
    output is to be linear, behind the depth-wise one (the second half of MobileNetV2's inverted residual, arXiv
    1801.04381).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Odd kernel size of the depth-wise convolution.
        stride: Stride of the depth-wise convolution.
        se: Module between the two convolutions, the place where MobileNetV3 has its squeeze-and-excitation.
        activation: Name of the activation.
        final_activation: Whether the output is activated.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        se: nn.Module | None = None,
        activation: str = "prelu",
        final_activation: bool = True,
    ) -> None:
        super().__init__()
        self.depthwise = ConvNormAct(
            in_channels,
            in_channels,
            kernel_size,
            stride,
            groups=in_channels,
            activation=None if final_activation else activation,
        )
        self.se = se if se is not None else nn.Identity()
        self.pointwise = ConvNormAct(in_channels, out_channels, 1, activation=activation if final_activation else None)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.se(self.depthwise(x)))
