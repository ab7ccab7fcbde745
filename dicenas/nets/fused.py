"""The modules of networks that are fused for inference."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dicenas.nets.shufflenetv2 import GroupedClassifier
from dicenas.ops import ConvNormAct, DiCE, dim_conv, kernels
from dicenas.ops.norm_act import is_depthwise

__all__ = [
    "LINEAR_BY_PIECES",
    "FusedClassifier",
    "FusedDepthwise",
    "FusedDiCE",
    "FusedPointwise",
    "affine",
    "runs_on_the_cpu",
    "slopes",
]


#: Activations that scale what is negative, which the fused modules take.
LINEAR_BY_PIECES = (nn.PReLU, nn.LeakyReLU, nn.ReLU, nn.Identity)


def slopes(act: nn.Module, channels: int) -> Tensor:
    """The activation's slope for negative values in each channel."""
    if isinstance(act, nn.PReLU):
        return act.weight.detach().expand(channels)
    if isinstance(act, nn.LeakyReLU):
        return torch.full((channels,), act.negative_slope)
    return torch.full((channels,), 0.0 if isinstance(act, nn.ReLU) else 1.0)


def affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The scale and shift that the normalisation is in inference."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        scale, shift = scale * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
    return scale.detach(), shift.detach()


def _differentiable(x: Tensor) -> bool:
    """Whether something may differentiate by the input, which the kernels of inference have no formulas for."""
    return (x.requires_grad and torch.is_grad_enabled()) or kernels.transforms()


def _leaky(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x > 0, x, slope[:, None, None] * x)


def _fused_unit(
    x: Tensor,
    filters: tuple[Tensor, Tensor, Tensor],
    dilation: tuple[int, int, int],
    local: Tensor,
    spatial: Tensor,
    gate: tuple[Tensor, Tensor],
    groups: int,
) -> Tensor:
    """Run a folded DiCE unit, whose spatial convolution is :func:`_constants`."""
    fused = kernels.qualifies(x, *filters, dilation) and x.dtype == local.dtype and not _differentiable(x)
    if fused and groups == spatial.shape[0] == local.shape[0] and x.device.type == "cpu":
        return kernels.dice_unit(x, *filters, local, spatial, *gate)
    x = kernels.dim_conv_local(x, *filters, local) if fused else _fuse_branches(dim_conv(x, *filters, dilation), local)
    weight, bias, slope = _of_constants(spatial, 3)
    scale = F.linear(F.relu(F.linear(x.mean((2, 3)), gate[0])), gate[1])
    x = F.conv2d(x, weight, bias, padding=1, groups=groups)
    return _leaky(x, slope) * torch.sigmoid(scale)[:, :, None, None]


def _fuse_branches(x: Tensor, local: Tensor) -> Tensor:
    x = x.unflatten(1, (3, -1))
    constants = local.t()[..., None, None]
    x = x * constants[0:9:3] + constants[1:9:3]
    x = torch.where(x > 0, x, constants[2:9:3] * x)
    x = (x * constants[9:12]).sum(1)
    return _leaky(x + constants[12], local[:, 13])


def runs_on_the_cpu(x: Tensor, weight: Tensor) -> bool:
    """Whether the CPU kernels of inference take an input and weights here."""
    suits = x.device.type == "cpu" and x.dtype == weight.dtype and x.dtype in kernels.DTYPES and not _differentiable(x)
    return suits and kernels.available("cpu") and not kernels.exporting()


def _constants(conv: nn.Conv2d, slope: Tensor) -> Tensor:
    """A row for each channel of a convolution's output: its weights, bias, and slope for negative values."""
    assert conv.bias is not None
    columns = conv.weight.detach().flatten(1), conv.bias.detach()[:, None], slope.detach().to(conv.bias)[:, None]
    return torch.cat(columns, 1)


def _of_constants(constants: Tensor, kernel_size: int) -> tuple[Tensor, Tensor, Tensor]:
    return constants[:, :-2].unflatten(1, (-1, kernel_size, kernel_size)), constants[:, -2], constants[:, -1]


def _fused_pointwise(x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor) -> Tensor:
    if runs_on_the_cpu(x, weight):
        return kernels.pointwise(x, weight, bias, slope)
    return _leaky(F.conv2d(x, weight[:, :, None, None], bias), slope)


# For torch.fx each is one call: which kernel runs is known when the traced program runs.
torch.fx.wrap("_fused_unit")
torch.fx.wrap("_fused_pointwise")


class FusedDiCE(nn.Module):
    """The DiCE unit in inference: ``(N, C_in, H, W)`` to ``(N, C_out, H, W)``, its normalisations folded.

    On the CPU it runs as one kernel where the spatial convolution is depth-wise, at any size of the input; on a GPU its
    first half does, at the native size. It runs as few standard operators where the kernels of the device are not
    loaded, where a gradient may be wanted, and when it is exported.
    """

    weight_channel: Tensor
    weight_width: Tensor
    weight_height: Tensor
    local: Tensor
    spatial: Tensor
    gate_reduce: Tensor
    gate_expand: Tensor

    def __init__(self, unit: DiCE) -> None:
        super().__init__()
        fuse, c = unit.dim_fuse, unit.dim_conv.in_channels
        scale, shift = affine(unit.norm)
        scale_out, shift_out = affine(fuse.local.norm)
        slope, slope_out = slopes(unit.act, 3 * c), slopes(fuse.local.act, c)
        conv = fuse_conv_bn_eval(fuse.spatial.conv, fuse.spatial.norm)
        slope_spatial = slopes(fuse.spatial.act, conv.out_channels)
        assert conv.bias is not None
        like = unit.dim_conv.weight_channel
        local = torch.empty(c, 14, dtype=torch.float64, device=like.device)
        for position, values in enumerate((scale, shift, slope)):
            local[:, position:9:3] = values.reshape(3, c).t()
        local[:, 9:12] = fuse.local.conv.weight.detach().reshape(c, 3) * scale_out[:, None]
        local[:, 12], local[:, 13] = shift_out, slope_out
        self.dilation = unit.dim_conv.dilation
        self.groups = conv.groups
        self.register_buffer("weight_channel", like.detach().clone())
        self.register_buffer("weight_width", unit.dim_conv.weight_width.detach().clone())
        self.register_buffer("weight_height", unit.dim_conv.weight_height.detach().clone())
        self.register_buffer("local", local.to(like.dtype))
        self.register_buffer("spatial", _constants(conv, slope_spatial))
        self.register_buffer("gate_reduce", fuse.gate_reduce.weight.detach().flatten(1).clone())
        self.register_buffer("gate_expand", fuse.gate_expand.weight.detach().flatten(1).clone())

    def forward(self, x: Tensor) -> Tensor:
        filters = (self.weight_channel, self.weight_width, self.weight_height)
        gate = (self.gate_reduce, self.gate_expand)
        return _fused_unit(x, filters, self.dilation, self.local, self.spatial, gate, self.groups)


class FusedPointwise(nn.Module):
    """A point-wise convolution with folded normalisation and activation: ``(N, C_in, H, W)`` to ``(N, C_out, H, W)``.

    On the CPU it is one kernel, which takes the unit's half of the channels as it lies in memory.
    """

    weight: Tensor
    bias: Tensor
    slope: Tensor

    def __init__(self, layer: ConvNormAct) -> None:
        super().__init__()
        conv = fuse_conv_bn_eval(layer.conv, layer.norm)
        assert conv.bias is not None
        self.register_buffer("weight", conv.weight.detach().flatten(1).clone())
        self.register_buffer("bias", conv.bias.detach().clone())
        self.register_buffer("slope", slopes(layer.act, conv.out_channels).detach().to(conv.bias).clone())

    def forward(self, x: Tensor) -> Tensor:
        return _fused_pointwise(x, self.weight, self.bias, self.slope)


class FusedDepthwise(nn.Module):
    """A depth-wise convolution with folded normalisation and activation: ``(N, C, H, W)`` to ``(N, C, H', W')``."""

    constants: Tensor

    def __init__(self, layer: ConvNormAct) -> None:
        super().__init__()
        conv = fuse_conv_bn_eval(layer.conv, layer.norm)
        self.kernel_size, self.stride = conv.kernel_size[0], conv.stride[0]
        self.register_buffer("constants", _constants(conv, slopes(layer.act, conv.out_channels)))

    @staticmethod
    def fits(layer: nn.Module) -> bool:
        """Whether it can stand for a layer: a depth-wise convolution that pads by half of its kernel, and no more."""
        if type(layer) is not ConvNormAct or not isinstance(layer.act, LINEAR_BY_PIECES):
            return False
        conv = layer.conv
        return is_depthwise(conv) and conv.stride[0] == conv.stride[1]

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, slope = _of_constants(self.constants, self.kernel_size)
        y = F.conv2d(x, weight, bias, self.stride, self.kernel_size // 2, groups=len(weight))
        return _leaky(y, slope)


class FusedClassifier(nn.Module):
    """DiCENet's head in inference, ``(N, C, H, W)`` to ``(N, num_classes)``: means, and one matrix.

    Nothing stands between its two linear layers then.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, head: GroupedClassifier) -> None:
        super().__init__()
        expand, classifier = head.expand, head.classifier
        groups = classifier.weight.detach().double().flatten(1).chunk(expand.groups, 1)
        expanding = expand.weight.detach().double().flatten(1).chunk(expand.groups)
        weight = torch.cat([group @ rows for group, rows in zip(groups, expanding, strict=True)], 1)
        self.register_buffer("weight", weight.to(classifier.weight.dtype))
        self.register_buffer("bias", classifier.bias.detach().clone())  # type: ignore[union-attr]

    @staticmethod
    def fits(head: GroupedClassifier) -> bool:
        """Whether it can stand for a head: one that is as its class made it."""
        if type(head) is not GroupedClassifier or type(head.dropout) not in (nn.Dropout, nn.Identity):
            return False
        expand, classifier = head.expand, head.classifier
        linear = all(
            type(conv) is nn.Conv2d and conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0)
            for conv in (expand, classifier)
        )
        return linear and expand.bias is None and classifier.groups == 1 and classifier.bias is not None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.mean((2, 3)), self.weight, self.bias)
