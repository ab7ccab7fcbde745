"""The operators ``dicenas::dim_conv``, its backward, and the fused inference operators, defined with torch.library.

The definition is in Python and the kernels are behind a C interface, so that one build of the libraries serves every
version of torch and Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from dicenas.ops.kernels import cpu, cuda

__all__ = [
    "KERNEL_SIZES",
    "check_dim_conv",
    "check_grad",
    "dice_unit",
    "dim_conv",
    "dim_conv_backward",
    "dim_conv_local",
    "pointwise",
    "select_channels",
    "select_downsample",
    "select_pointwise",
]

#: Kernel sizes that the kernels exist for.
KERNEL_SIZES = (3, 5)

_library = torch.library.Library("dicenas", "DEF")
_FILTERS = "Tensor weight_channel, Tensor weight_width, Tensor weight_height"
for _schema in (
    f"dim_conv(Tensor x, {_FILTERS}) -> Tensor",
    f"dim_conv_backward(Tensor grad, Tensor x, {_FILTERS}, bool input_grad, bool weight_grad)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    f"dim_conv_local(Tensor x, {_FILTERS}, Tensor local) -> Tensor",
    f"dice_unit(Tensor x, {_FILTERS}, Tensor local, Tensor spatial, Tensor gate_reduce, Tensor gate_expand) -> Tensor",
    "pointwise(Tensor x, Tensor weight, Tensor bias, Tensor slope) -> Tensor",
    "select_pointwise(Tensor[] maps, Tensor channels, Tensor weight, Tensor bias, Tensor slope) -> Tensor",
    "select_channels(Tensor[] maps, Tensor channels) -> Tensor",
    "select_downsample(Tensor[] maps, Tensor channels, Tensor constants) -> (Tensor, Tensor)",
):
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))

dim_conv = torch.ops.dicenas.dim_conv.default
dim_conv_backward = torch.ops.dicenas.dim_conv_backward.default
dim_conv_local = torch.ops.dicenas.dim_conv_local.default
dice_unit = torch.ops.dicenas.dice_unit.default
pointwise = torch.ops.dicenas.pointwise.default
select_pointwise = torch.ops.dicenas.select_pointwise.default
select_channels = torch.ops.dicenas.select_channels.default
select_downsample = torch.ops.dicenas.select_downsample.default


def check_dim_conv(x: Tensor, channel: Tensor, width: Tensor, height: Tensor) -> None:
    """Raise ValueError unless dimension-wise convolution's kernels can take these arguments: nothing is read before.

    The CPU's take an input of any size: they resize it to the native one, a filter a column and a row, and back.
    """
    if x.dim() != 4:
        raise ValueError(f"dicenas::dim_conv takes an input (N, C, H, W), got shape {tuple(x.shape)}")
    if x.dtype not in cpu.DTYPES:
        raise ValueError(f"dicenas::dim_conv takes float32, float16 and bfloat16, got {x.dtype}")
    _, c, h, w = x.shape
    if min(c, h, w) < 1:
        raise ValueError(f"dicenas::dim_conv: only the batch of an input may be empty, got shape {tuple(x.shape)}")
    size = channel.shape[-1] if channel.dim() else 0
    if size not in KERNEL_SIZES:
        raise ValueError(f"dicenas::dim_conv has kernels of size 3 and 5, got filters {tuple(channel.shape)}")
    for name, weight, filters in (
        ("weight_channel", channel, c),
        ("weight_width", width, w if x.device.type == "cuda" else _filters(width)),
        ("weight_height", height, h if x.device.type == "cuda" else _filters(height)),
    ):
        _check_constant(name, weight, (filters, 1, size, size), x)
        if weight.dtype != x.dtype:
            raise ValueError(f"dicenas::dim_conv: {name} is {weight.dtype}, the input {x.dtype}")


def _filters(weight: Tensor) -> int:
    return max(1, weight.shape[0] if weight.dim() else 0)


def _check_constant(name: str, value: Tensor, shape: Sequence[int], x: Tensor) -> None:
    if tuple(value.shape) != tuple(shape):
        raise ValueError(
            f"dicenas kernels: {name} has shape {tuple(value.shape)}, expected {tuple(shape)} for an input "
            f"{tuple(x.shape)}"
        )
    if value.device != x.device:
        raise ValueError(f"dicenas kernels: {name} is on {value.device}, the input on {x.device}")


def check_grad(grad: Tensor, x: Tensor) -> None:
    """Raise ValueError unless this can be the gradient of what dimension-wise convolution makes of ``x``."""
    n, c, h, w = x.shape
    _check_constant("grad", grad, (n, 3 * c, h, w), x)
    if grad.dtype != x.dtype:
        raise ValueError(f"dicenas::dim_conv_backward: grad is {grad.dtype}, the input {x.dtype}")


def _check_unit(x: Tensor, spatial: Tensor, gate_reduce: Tensor, gate_expand: Tensor) -> None:
    c = x.shape[1]
    squeezed = gate_reduce.shape[0] if gate_reduce.dim() else 0
    if squeezed < 1:
        raise ValueError(f"dicenas::dice_unit: gate_reduce has shape {tuple(gate_reduce.shape)}, expected (r, {c})")
    _check_constant("spatial", spatial, (c, 11), x)
    _check_constant("gate_reduce", gate_reduce, (squeezed, c), x)
    _check_constant("gate_expand", gate_expand, (c, squeezed), x)


def _implement(device: str, module: Any) -> None:
    """Register the kernels of ``module`` for a device, each behind its checks."""

    def forward(x: Tensor, *filters: Tensor) -> Tensor:
        check_dim_conv(x, *filters)
        return module.dim_conv(x, *filters)

    def backward(
        grad: Tensor, x: Tensor, channel: Tensor, width: Tensor, height: Tensor, input_grad: bool, weight_grad: bool
    ) -> tuple[Tensor, ...]:
        check_dim_conv(x, channel, width, height)
        check_grad(grad, x)
        return module.dim_conv_backward(grad, x, channel, width, height, input_grad, weight_grad)

    def local(x: Tensor, channel: Tensor, width: Tensor, height: Tensor, constants: Tensor) -> Tensor:
        check_dim_conv(x, channel, width, height)
        _check_constant("local", constants, (x.shape[1], 14), x)
        return module.dim_conv_local(x, channel, width, height, constants)

    def unit(
        x: Tensor,
        channel: Tensor,
        width: Tensor,
        height: Tensor,
        constants: Tensor,
        spatial: Tensor,
        gate_reduce: Tensor,
        gate_expand: Tensor,
    ) -> Tensor:
        check_dim_conv(x, channel, width, height)
        _check_constant("local", constants, (x.shape[1], 14), x)
        _check_unit(x, spatial, gate_reduce, gate_expand)
        return module.dice_unit(x, channel, width, height, constants, spatial, gate_reduce, gate_expand)

    _library.impl("dim_conv", forward, device)
    _library.impl("dim_conv_backward", backward, device)
    _library.impl("dim_conv_local", local, device)
    _library.impl("dice_unit", unit, device)


def _check_pointwise(x: Tensor, c: int, weight: Tensor, bias: Tensor, slope: Tensor) -> None:
    out_channels = weight.shape[0] if weight.dim() else 0
    if out_channels < 1:
        raise ValueError(f"dicenas kernels: weight has shape {tuple(weight.shape)}, expected (C_out, {c})")
    _check_constant("weight", weight, (out_channels, c), x)
    _check_constant("bias", bias, (out_channels,), x)
    _check_constant("slope", slope, (out_channels,), x)


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor) -> Tensor:
    if x.dim() != 4 or x.dtype not in cpu.DTYPES or min(x.shape[1:]) < 1:
        raise ValueError(f"dicenas::pointwise takes an input (N, C, H, W), got {x.dtype} {tuple(x.shape)}")
    _check_pointwise(x, x.shape[1], weight, bias, slope)
    return cpu.pointwise((x,), None, weight, bias, slope)


def _check_selection(maps: Sequence[Tensor], channels: Tensor) -> None:
    """Raise ValueError unless the maps go together; the numbers of the channels are looked at by the kernels."""
    if not maps or maps[0].dim() != 4 or maps[0].dtype not in cpu.DTYPES or min(maps[0].shape[2:]) < 1:
        found = [(m.dtype, tuple(m.shape)) for m in maps]
        raise ValueError(f"dicenas kernels: channels are selected from maps (N, C, H, W) of one size, got {found}")
    n, _, h, w = maps[0].shape
    for m in maps:
        if m.dim() != 4 or m.dtype != maps[0].dtype:
            raise ValueError(f"dicenas kernels: a map is {m.dtype} {tuple(m.shape)} beside one of {maps[0].dtype}")
        _check_constant("a map", m, (n, m.shape[1], h, w), maps[0])
    _check_constant("channels", channels, (channels.numel(),), maps[0])
    if channels.dtype != torch.int64 or not channels.numel():
        raise ValueError(f"dicenas kernels: channels to select are int64, at least one, got {channels}")


def _select_pointwise(maps: Sequence[Tensor], channels: Tensor, weight: Tensor, bias: Tensor, slope: Tensor) -> Tensor:
    _check_selection(maps, channels)
    _check_pointwise(maps[0], len(channels), weight, bias, slope)
    return cpu.pointwise(maps, channels, weight, bias, slope)


def _select_channels(maps: Sequence[Tensor], channels: Tensor) -> Tensor:
    _check_selection(maps, channels)
    return cpu.select_channels(maps, channels)


def _select_downsample(maps: Sequence[Tensor], channels: Tensor, constants: Tensor) -> tuple[Tensor, Tensor]:
    _check_selection(maps, channels)
    _check_constant("constants", constants, (len(channels), 11), maps[0])
    return cpu.select_downsample(maps, channels, constants)


_implement("CPU", cpu)
_library.impl("pointwise", _pointwise, "CPU")
_library.impl("select_pointwise", _select_pointwise, "CPU")
_library.impl("select_channels", _select_channels, "CPU")
_library.impl("select_downsample", _select_downsample, "CPU")
_implement("CUDA", cuda)


def _fake_dim_conv(x: Tensor, channel: Tensor, width: Tensor, height: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.new_empty((n, 3 * c, h, w))


def _fake_backward(
    grad: Tensor, x: Tensor, channel: Tensor, width: Tensor, height: Tensor, input_grad: bool, weight_grad: bool
) -> tuple[Tensor, ...]:
    weights = (channel, width, height)
    grad_x = x.new_empty(x.shape if input_grad else 0)
    return grad_x, *(weight.new_empty(weight.shape if weight_grad else 0) for weight in weights)


def _fake_same(x: Tensor, *constants: Tensor) -> Tensor:
    return x.new_empty(x.shape)


torch.library.register_fake("dicenas::dim_conv", _fake_dim_conv, lib=_library)
torch.library.register_fake("dicenas::dim_conv_backward", _fake_backward, lib=_library)
torch.library.register_fake("dicenas::dim_conv_local", _fake_same, lib=_library)
torch.library.register_fake("dicenas::dice_unit", _fake_same, lib=_library)


def _fake_pointwise(x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0], *x.shape[2:]))


torch.library.register_fake("dicenas::pointwise", _fake_pointwise, lib=_library)
torch.library.register_fake(
    "dicenas::select_pointwise", lambda maps, channels, *constants: _fake_pointwise(maps[0], *constants), lib=_library
)
torch.library.register_fake(
    "dicenas::select_channels",
    lambda maps, channels: maps[0].new_empty((maps[0].shape[0], len(channels), *maps[0].shape[2:])),
    lib=_library,
)


def _fake_select_downsample(maps: Sequence[Tensor], channels: Tensor, constants: Tensor) -> tuple[Tensor, Tensor]:
    n, _, h, w = maps[0].shape
    convolved, pooled = (maps[0].new_empty((n, len(channels), (h + 1) // 2, (w + 1) // 2)) for _ in range(2))
    return convolved, pooled


torch.library.register_fake("dicenas::select_downsample", _fake_select_downsample, lib=_library)


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad
    if torch.is_grad_enabled():
        from dicenas.ops.dim_conv import dim_conv_reference
        from dicenas.ops.kernels.gradients import differentiate_again

        return differentiate_again(dim_conv_reference, ctx.saved_tensors, needed, [grad])
    grads = dim_conv_backward(grad, *ctx.saved_tensors, needed[0], any(needed[1:]))
    return tuple(g if need else None for g, need in zip(grads, needed, strict=True))


torch.library.register_autograd("dicenas::dim_conv", _gradient, setup_context=_setup_context, lib=_library)


def _autocast(device: str) -> None:
    """Under autocast the operator takes part as convolutions do: it runs in the lower precision."""
    key = "AutocastCPU" if device == "cpu" else "AutocastCUDA"
    excluded = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def cast(*tensors: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype(device)
        with torch._C._ExcludeDispatchKeyGuard(excluded):
            return dim_conv(*(t.to(dtype) if t.is_floating_point() else t for t in tensors))

    _library.impl("dim_conv", cast, key)


_autocast("cpu")
_autocast("cuda")


def _vmap(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> tuple[Tensor, int]:
    x_dim, *filter_dims = in_dims
    if all(dim is None for dim in filter_dims) and x_dim is not None:
        x = tensors[0].movedim(x_dim, 0)
        return dim_conv(x.flatten(0, 1), *tensors[1:]).unflatten(0, x.shape[:2]), 0
    slices = [
        dim_conv(*(t if dim is None else t.select(dim, i) for t, dim in zip(tensors, in_dims, strict=True)))
        for i in range(info.batch_size)
    ]
    return torch.stack(slices), 0


torch.library.register_vmap("dicenas::dim_conv", _vmap, lib=_library)


def _macs(x_shape: Sequence[int], kernel_size: int, native_w: int, native_h: int) -> int:
    n, c, h, w = x_shape
    return n * c * (h * w + native_h * w + h * native_w) * kernel_size**2


@register_flop_formula(torch.ops.dicenas.dim_conv)
def _dim_conv_flops(
    x_shape: Sequence[int],
    channel_shape: Sequence[int],
    width_shape: Sequence[int],
    height_shape: Sequence[int],
    **kwargs: Any,
) -> int:
    return 2 * _macs(x_shape, channel_shape[-1], width_shape[0], height_shape[0])


@register_flop_formula(torch.ops.dicenas.dim_conv_backward)
def _backward_flops(
    grad_shape: Sequence[int],
    x_shape: Sequence[int],
    channel_shape: Sequence[int],
    width_shape: Sequence[int],
    height_shape: Sequence[int],
    input_grad: bool,
    weight_grad: bool,
    **kwargs: Any,
) -> int:
    macs = _macs(x_shape, channel_shape[-1], width_shape[0], height_shape[0])
    return 2 * macs * (int(input_grad) + int(weight_grad))
