"""The small layers that every candidate op and backbone is made of."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from dicenas.ops.norm_act import conv_norm_act

__all__ = [
    "ACTIVATIONS",
    "ChannelShuffle",
    "ConvNormAct",
    "SqueezeExcitation",
    "init_convolutions",
    "make_activation",
    "make_divisible",
]

#: Activation names and their factories; each factory takes the number of channels (only PReLU uses it).
ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "prelu": nn.PReLU,
    "relu": lambda channels: nn.ReLU(),
    "relu6": lambda channels: nn.ReLU6(),
    "hardswish": lambda channels: nn.Hardswish(),
    "silu": lambda channels: nn.SiLU(),
}


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round to a multiple of ``divisor``, at least one, and never down by more than a tenth."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def make_activation(name: str | None, channels: int) -> nn.Module:
    """Return the activation called ``name`` for a map of ``channels`` channels; ``None`` gives the identity.

    Raises:
        ValueError: ``name`` is not one of :data:`ACTIVATIONS`.
    """
    if name is None:
        return nn.Identity()
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; expected one of {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name](channels)


def init_convolutions(module: nn.Module) -> None:
    """Draw the weights of a module of convolutions as all of the package's: Kaiming normal, fan-out; biases zero."""
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.kaiming_normal_(parameter, mode="fan_out")


class ConvNormAct(nn.Module):
    """Convolution without bias, batch normalisation, activation: ``(N, C_in, H, W)`` to ``(N, C_out, H', W')``.

    Padding keeps the size at stride 1 and gives ``ceil(size / 2)`` at stride 2.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Odd kernel size.
        stride: Stride of the convolution.
        groups: Groups of the convolution.
        activation: Name of the activation, or ``None`` for a linear output.

    Raises:
        ValueError: The kernel size is even or below 1, or the groups do not divide the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        activation: str | None = "prelu",
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {kernel_size} should be odd and positive: only odd kernels keep the size")
        padding = (kernel_size - 1) // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
        self.norm = nn.BatchNorm2d(out_channels)
        self.act = make_activation(activation, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return conv_norm_act(x, self.conv, self.norm, self.act)


class ChannelShuffle(nn.Module):
    """Channel shuffle (ShuffleNet, arXiv 1707.01083): ``(N, C, H, W)`` to the same, groups interleaved.

    ``nn.ChannelShuffle`` has no CUDA backward for channels_last inputs in some releases and exports to a custom
    ONNX operator in others; view and transpose work everywhere.

    Args:
        groups: Groups to interleave.

    Raises:
        ValueError: In calling it: the groups do not divide the channels of the input.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if isinstance(c, int) and c % self.groups:  # what traces a program has numbers of its own
            raise ValueError(f"{c} channels cannot be shuffled in {self.groups} groups, which should divide them")
        x = x.reshape(n, self.groups, c // self.groups, h, w).transpose(1, 2)
        return x.reshape(n, c, h, w)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


class SqueezeExcitation(nn.Module):
    """Squeeze-and-excitation (arXiv 1709.01507): scales each channel of ``(N, C, H, W)`` by a gate in (0, 1).

    Args:
        channels: Channels of the input and the output.
        reduction: The bottleneck has ``channels // reduction`` channels, as near as ``divisor`` allows.
        divisor: What divides the channels of the bottleneck.
        hard: Whether the gate is a hard sigmoid, which costs less (MobileNetV3, arXiv 1905.02244).
    """

    def __init__(self, channels: int, reduction: int = 4, divisor: int = 1, hard: bool = False) -> None:
        super().__init__()
        squeezed = make_divisible(channels // reduction, divisor)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = nn.ReLU()
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Hardsigmoid() if hard else nn.Sigmoid()
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * self.gate(scale)
