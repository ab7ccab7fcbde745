"""How the CUDA kernels are launched: grids, blocks and arguments, whoever launches them.

The functions take a launcher, the driver's or that of the host emulation in the tests, so that all but the driver's
own calls is tested without a GPU.
"""

from __future__ import annotations

import ctypes
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["KERNELS", "Arguments", "Launcher", "dice_unit", "dim_conv", "dim_conv_backward", "dim_conv_local"]

_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_THREADS = 128

#: Names of all kernels.
KERNELS = (
    *(
        f"{kernel}_{dtype}_k{size}"
        for kernel in ("dim_conv", "dim_conv_local", "grad_input", "grad_rows_columns", "grad_channels")
        for dtype in _NAMES.values()
        for size in (3, 5)
    ),
    "sum_parts",
)


class Arguments(ctypes.Structure):
    """The kernels' only argument; ``csrc/dicenas_cuda_kernels.cuh`` has the same struct."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "grad", "out")),
        *((name, ctypes.c_void_p) for name in ("weight_channel", "weight_width", "weight_height", "local", "parts")),
        *((name, ctypes.c_int) for name in ("n", "c", "h", "w", "chunk", "group", "tile_h", "tile_w")),
        *((name, ctypes.c_int) for name in ("part_count", "part_size")),
    )


class Launcher(Protocol):
    """Launches kernels by name."""

    #: Multiprocessors of the device.
    processors: int

    def launch(
        self, name: str, grid: tuple[int, int, int], threads: int, shared_bytes: int, arguments: Arguments
    ) -> None:
        """Launch a kernel on the current stream."""


def _divide_up(a: int, b: int) -> int:
    return -(-a // b)


def _arguments(x: Tensor, filters: tuple[Tensor, Tensor, Tensor]) -> Arguments:
    n, c, h, w = x.shape
    if n * h * w >= 2**31 or 3 * c * h * w >= 2**31:
        raise ValueError(f"the CUDA kernels count pixels in 32 bits; the input {tuple(x.shape)} has more")
    channel, width, height = (weight.data_ptr() for weight in filters)
    return Arguments(
        x=x.data_ptr(), weight_channel=channel, weight_width=width, weight_height=height, n=n, c=c, h=h, w=w
    )


def _constants(*filters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    channel, width, height = (weight.float().contiguous() for weight in filters)
    return channel, width, height


def _suffix(x: Tensor, weight: Tensor) -> str:
    return f"{_NAMES[x.dtype]}_k{weight.shape[-1]}"


def _walk(launcher: Launcher, kernel: str, arguments: Arguments, kernel_size: int, constants: int) -> None:
    """Launch a kernel that walks over chunks of channels, small enough ones to fill the device twice."""
    blocks = _divide_up(arguments.n * arguments.h * arguments.w, _THREADS)
    wanted = _divide_up(16 * launcher.processors, blocks)
    arguments.chunk = max(
        4 * (kernel_size // 2), min(64, _divide_up(arguments.c, wanted)), _divide_up(arguments.c, 65535)
    )
    row = _divide_up(kernel_size**2 + constants, 4) * 4
    grid = (blocks, _divide_up(arguments.c, arguments.chunk), 1)
    launcher.launch(kernel, grid, _THREADS, arguments.chunk * row * 4, arguments)


def dim_conv(
    launcher: Launcher, x: Tensor, weight_channel: Tensor, weight_width: Tensor, weight_height: Tensor
) -> Tensor:
    """Launch ``dicenas::dim_conv``."""
    n, c, h, w = x.shape
    out = x.new_empty((n, 3 * c, h, w))
    if n == 0:
        return out
    x = x.contiguous()
    filters = _constants(weight_channel, weight_width, weight_height)
    arguments = _arguments(x, filters)
    arguments.out = out.data_ptr()
    _walk(launcher, f"dim_conv_{_suffix(x, weight_channel)}", arguments, weight_channel.shape[-1], 0)
    return out


def dim_conv_local(
    launcher: Launcher,
    x: Tensor,
    weight_channel: Tensor,
    weight_width: Tensor,
    weight_height: Tensor,
    local: Tensor,
) -> Tensor:
    """Launch ``dicenas::dim_conv_local``."""
    out = x.new_empty(x.shape)
    if x.shape[0] == 0:
        return out
    x, local = x.contiguous(), local.float().contiguous()
    filters = _constants(weight_channel, weight_width, weight_height)
    arguments = _arguments(x, filters)
    arguments.out, arguments.local = out.data_ptr(), local.data_ptr()
    _walk(launcher, f"dim_conv_local_{_suffix(x, weight_channel)}", arguments, weight_channel.shape[-1], 14)
    return out


def dice_unit(
    launcher: Launcher,
    x: Tensor,
    weight_channel: Tensor,
    weight_width: Tensor,
    weight_height: Tensor,
    local: Tensor,
    spatial: Tensor,
    gate_reduce: Tensor,
    gate_expand: Tensor,
) -> Tensor:
    """Launch ``dicenas::dice_unit``: its first half is fused, the second is the standard operators."""
    y = dim_conv_local(launcher, x, weight_channel, weight_width, weight_height, local)
    c = y.shape[1]
    spatial = spatial.to(y.dtype)
    gate = F.linear(F.relu(F.linear(y.mean((2, 3)), gate_reduce.to(y.dtype))), gate_expand.to(y.dtype))
    y = F.conv2d(y, spatial[:, :9].reshape(c, 1, 3, 3), spatial[:, 9].contiguous(), padding=1, groups=c)
    return F.prelu(y, spatial[:, 10].contiguous()) * torch.sigmoid(gate)[:, :, None, None]


def dim_conv_backward(
    launcher: Launcher,
    grad: Tensor,
    x: Tensor,
    weight_channel: Tensor,
    weight_width: Tensor,
    weight_height: Tensor,
    input_grad: bool,
    weight_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch ``dicenas::dim_conv_backward``; gradients that are not wanted come back empty.

    Sums of the filters' gradients go part by part to a workspace and are added in their order: no atomics, and the
    same bits from every run on one kind of device.
    """
    weights = (weight_channel, weight_width, weight_height)
    grad_x = x.new_empty(x.shape if input_grad else 0)
    grads = [torch.zeros(w.shape if weight_grad else 0, device=x.device, dtype=torch.float32) for w in weights]
    if x.shape[0] > 0:
        x, grad = x.contiguous(), grad.contiguous()
        filters = _constants(*weights)
        arguments = _arguments(x, filters)
        arguments.grad = grad.data_ptr()
        suffix = _suffix(x, weight_channel)
        if input_grad:
            arguments.out = grad_x.data_ptr()
            _walk(launcher, f"grad_input_{suffix}", arguments, weight_channel.shape[-1], 0)
        if weight_grad:
            _weight_gradients(launcher, suffix, arguments, grads)
    channel, width, height = (g.to(weight_channel.dtype) for g in grads)
    return grad_x, channel, width, height


def _weight_gradients(launcher: Launcher, suffix: str, arguments: Arguments, grads: list[Tensor]) -> None:
    n, c, h, w = arguments.n, arguments.c, arguments.h, arguments.w
    channel, width, height = grads
    taps = channel.shape[-1] ** 2

    # Tiles of at most 256 pixels, as even as they come.
    across = _divide_up(w, 32)
    arguments.tile_w = _divide_up(w, across)
    down = _divide_up(h, 256 // arguments.tile_w)
    arguments.tile_h = _divide_up(h, down)
    threads = _divide_up(arguments.tile_h * arguments.tile_w, 32) * 32
    arguments.chunk = max(min(c, 16), _divide_up(c, 65535))
    chunks = _divide_up(c, arguments.chunk)
    groups = min(n, max(1, _divide_up(8 * launcher.processors, chunks * across * down)))
    arguments.group = _divide_up(n, groups)
    groups = _divide_up(n, arguments.group)
    parts = chunks * groups
    workspace = channel.new_empty(parts * (across * h + down * w) * taps)
    arguments.parts = workspace.data_ptr()
    launcher.launch(
        f"grad_rows_columns_{suffix}", (across * down, chunks, groups), threads, threads * taps * 4, arguments
    )
    _sum_parts(launcher, workspace, parts * across, height)
    _sum_parts(launcher, workspace[parts * across * h * taps :], parts * down, width)

    groups = min(n, _divide_up(16 * launcher.processors, c))
    arguments.group = _divide_up(n, groups)
    groups = _divide_up(n, arguments.group)
    workspace = channel.new_empty(groups * c * taps)
    arguments.parts = workspace.data_ptr()
    launcher.launch(f"grad_channels_{suffix}", (c, groups, 1), _THREADS, _THREADS * taps * 4, arguments)
    _sum_parts(launcher, workspace, groups, channel)


def _sum_parts(launcher: Launcher, workspace: Tensor, count: int, out: Tensor) -> None:
    arguments = Arguments(parts=workspace.data_ptr(), out=out.data_ptr(), part_count=count, part_size=out.numel())
    launcher.launch("sum_parts", (_divide_up(out.numel(), _THREADS), 1, 1), _THREADS, 0, arguments)
