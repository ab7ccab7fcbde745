"""Dimension-wise convolution (DiCENet, arXiv 1906.03516, Section 3.1): one depth-wise filter bank per dimension."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dicenas.ops import kernels
from dicenas.ops.slicing import Positions, row_positions, special_slices

__all__ = ["DimConv", "dim_conv", "dim_conv_reference", "resize_matrix", "runs_by_kernels"]


def resize_matrix(source: int, target: int, like: Tensor) -> Tensor:
    """Return the matrix ``(target, source)`` that resizes one axis from ``source`` to ``target`` points.

    Growing is linear interpolation with aligned corners; shrinking is adaptive average pooling. Both are linear
    along the axis, so one fixed matrix does each; unlike adaptive pooling it exports to ONNX at every size.

    Args:
        source: Points of the axis before.
        target: Points of the axis after.
        like: Tensor whose dtype and device the matrix takes.
    """
    rows = torch.arange(target, device=like.device)[:, None]
    columns = torch.arange(source, device=like.device)[None, :]
    if target > source:
        # A position such as 27.4 has no room in 16 bits: the weights are computed wider and rounded once.
        wide = torch.promote_types(like.dtype, torch.float32)
        positions = rows.to(wide) * ((source - 1) / (target - 1))
        return (1 - (positions - columns).abs()).clamp(min=0).to(like.dtype)
    start = rows * source // target
    stop = -(-(rows + 1) * source // target)
    inside = (columns >= start) & (columns < stop)
    return inside.to(like.dtype) / (stop - start).to(like.dtype)


def _resize_height(x: Tensor, height: int) -> Tensor:
    return x if x.shape[2] == height else torch.matmul(resize_matrix(x.shape[2], height, x), x)


def _resize_width(x: Tensor, width: int) -> Tensor:
    return x if x.shape[3] == width else torch.matmul(x, resize_matrix(x.shape[3], width, x).t())


def dim_conv_reference(
    x: Tensor,
    weight_channel: Tensor,
    weight_width: Tensor,
    weight_height: Tensor,
    dilation: Sequence[int] = (1, 1, 1),
) -> Tensor:
    """:func:`dim_conv` in plain PyTorch operators: what the fused kernels are held to."""
    height, width = x.shape[2:]
    reach = (weight_channel.shape[2] - 1) // 2
    d_channel, d_width, d_height = dilation
    by_channel = F.conv2d(
        x, weight_channel, padding=reach * d_channel, dilation=d_channel, groups=weight_channel.shape[0]
    )
    # Convolving transposed views is the same filter over the other two axes; cat makes the only copy.
    by_height = F.conv2d(
        _resize_height(x, weight_height.shape[0]).transpose(1, 2),
        weight_height,
        padding=reach * d_height,
        dilation=d_height,
        groups=weight_height.shape[0],
    ).transpose(1, 2)
    by_width = F.conv2d(
        _resize_width(x, weight_width.shape[0]).transpose(1, 3),
        weight_width,
        padding=reach * d_width,
        dilation=d_width,
        groups=weight_width.shape[0],
    ).transpose(1, 3)
    return torch.cat((by_channel, _resize_height(by_height, height), _resize_width(by_width, width)), 1)


def dim_conv(
    x: Tensor,
    weight_channel: Tensor,
    weight_width: Tensor,
    weight_height: Tensor,
    dilation: Sequence[int] = (1, 1, 1),
) -> Tensor:
    """Convolve ``(N, C, H, W)`` depth-wise along channel, height and width; returns ``(N, 3C, H, W)``.

    The output channels are ``[channel-wise | height-wise | width-wise]``. The height-wise branch has one filter for
    each row of the native height, sliding over the (C, W) plane; the width-wise branch one for each column of the
    native width, sliding over (H, C). An input of another size is resized along that axis and back
    (:func:`resize_matrix`).

    Args:
        x: Input ``(N, C, H, W)``.
        weight_channel: ``(C, 1, k, k)``.
        weight_width: ``(native width, 1, k, k)``.
        weight_height: ``(native height, 1, k, k)``.
        dilation: For the channel-wise, width-wise and height-wise filters, in this order.

    Raises:
        ValueError: A shape does not fit the others, the kernel is even, or a dilation is below 1.
    """
    _check(x, weight_channel, weight_width, weight_height, dilation)
    if kernels.qualifies(x, weight_channel, weight_width, weight_height, dilation):
        return kernels.dim_conv(x, weight_channel, weight_width, weight_height)
    return dim_conv_reference(x, weight_channel, weight_width, weight_height, dilation)


def runs_by_kernels(conv: DimConv, x: Tensor) -> bool:
    """Whether a module's input ``(N, C, H, W)`` goes through the fused kernels here.

    Raises:
        ValueError: As in calling the module.
    """
    filters = conv.weight_channel, conv.weight_width, conv.weight_height
    _check(x, *filters, conv.dilation)
    return kernels.qualifies(x, *filters, conv.dilation)


# For torch.fx it is one call: sizes, and with them the kernel, are known when the traced program runs.
torch.fx.wrap("dim_conv")


def _check(x: Tensor, channel: Tensor, width: Tensor, height: Tensor, dilation: Sequence[int]) -> None:
    if x.dim() != 4:
        raise ValueError(f"dim_conv takes an input (N, C, H, W), got shape {tuple(x.shape)}")
    if channel.shape[0] != x.shape[1]:
        raise ValueError(f"dim_conv: {channel.shape[0]} channel-wise filters for {x.shape[1]} input channels")
    for name, weight in (("weight_channel", channel), ("weight_width", width), ("weight_height", height)):
        kernel = tuple(weight.shape[1:])
        if weight.dim() != 4 or kernel != tuple(channel.shape[1:]) or kernel[0] != 1 or kernel[1] != kernel[2]:
            raise ValueError(f"dim_conv: {name} has shape {tuple(weight.shape)}, expected (filters, 1, k, k)")
    if channel.shape[2] % 2 == 0:
        raise ValueError(f"dim_conv: kernel size {channel.shape[2]} is even; only odd kernels keep the size")
    if len(dilation) != 3 or min(dilation) < 1:
        raise ValueError(
            f"dim_conv: dilation {tuple(dilation)} should be (d_channel, d_width, d_height), each at least 1"
        )


class DimConv(nn.Module):
    """Dimension-wise convolution (DiCENet, Section 3.1): ``(N, C, H, W)`` to ``(N, 3C, H, W)``.

    Args:
        in_channels: Channels C of the input.
        size: Native ``(H, W)``: one height-wise filter a row, one width-wise filter a column. Inputs of other
            sizes work too and are resized along the axis concerned.
        kernel_size: Odd kernel size, the same for the three branches.
        dilation: ``(d_channel, d_width, d_height)``.

    Raises:
        ValueError: An even kernel size, or a size, dilation or number of channels below 1.
    """

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, int],
        kernel_size: int = 3,
        dilation: Sequence[int] = (1, 1, 1),
    ) -> None:
        super().__init__()
        height, width = size
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {kernel_size} is even; dimension-wise convolution needs an odd one")
        if len(dilation) != 3:
            raise ValueError(f"dilation {tuple(dilation)} should be (d_channel, d_width, d_height)")
        if min(in_channels, height, width, kernel_size, *dilation) < 1:
            raise ValueError(
                f"in_channels {in_channels}, size {tuple(size)}, kernel_size {kernel_size} and dilation "
                f"{tuple(dilation)} must all be at least 1"
            )
        self.in_channels = in_channels
        self.size = (height, width)
        self.kernel_size = kernel_size
        self.dilation = (dilation[0], dilation[1], dilation[2])
        self.weight_channel = nn.Parameter(torch.empty(in_channels, 1, kernel_size, kernel_size))
        self.weight_width = nn.Parameter(torch.empty(width, 1, kernel_size, kernel_size))
        self.weight_height = nn.Parameter(torch.empty(height, 1, kernel_size, kernel_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the filters as the published network does: Kaiming normal, fan-out, groups not considered."""
        for weight in (self.weight_channel, self.weight_width, self.weight_height):
            nn.init.kaiming_normal_(weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        return dim_conv(x, self.weight_channel, self.weight_width, self.weight_height, self.dilation)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, size={self.size}, kernel_size={self.kernel_size}, dilation={self.dilation}"


@special_slices.register
def _slices_of_dim_conv(narrow: DimConv, wide: DimConv) -> dict[str, Positions]:
    # The filters of rows and columns belong to places of the image: those nearest to where they stand.
    kernel = range(1), range(narrow.kernel_size), range(narrow.kernel_size)
    height, width = (row_positions(*sides) for sides in zip(narrow.size, wide.size, strict=True))
    return {"weight_height": (height, *kernel), "weight_width": (width, *kernel)}
