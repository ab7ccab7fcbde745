"""The fused kernels of dimension-wise convolution, for CPU and CUDA.

They are used by :func:`dicenas.ops.dim_conv` by themselves where a library is loaded and the arguments suit, and are
held to its plain PyTorch form in value and gradient. ``DICENAS_KERNELS=off`` in the environment switches them off;
``dicenas kernels`` says what is loaded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dicenas.ops.kernels import cuda, definitions, gradients, training, unit_step
from dicenas.ops.kernels.definitions import KERNEL_SIZES
from dicenas.ops.kernels.library import Library, find_cuda_code, load_library, switched_off

__all__ = [
    "DTYPES",
    "KERNEL_SIZES",
    "Library",
    "available",
    "depthwise_norm_act",
    "describe",
    "dice_unit",
    "dice_unit_step",
    "dim_conv",
    "dim_conv_local",
    "disabled",
    "exporting",
    "load_library",
    "local_fusion",
    "norm_act",
    "pointwise",
    "qualifies",
    "select_channels",
    "select_downsample",
    "select_pointwise",
    "switched_off",
    "trains",
    "transforms",
]

#: Data types of the kernels.
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_disabled = False  # by disabled()
_cpu_is_loaded = load_library("cpu").handle is not None


def available(device: torch.device | str) -> bool:
    """Whether the kernels can be used on a device; the first call for a GPU loads or compiles its code."""
    if _disabled:
        return False
    device = torch.device(device)
    if device.type == "cpu":
        return _cpu_is_loaded
    return device.type == "cuda" and torch.version.hip is None and _gpu_has_code(device)


def _gpu_has_code(device: torch.device) -> bool:
    """Whether a GPU's code is loaded or can be; a compiler asks once instead of tracing the driver's calls."""
    return cuda.launcher(device) is not None


# What torch.compiler.assume_constant_result does; calling that here would import the whole compiler.
_gpu_has_code._dynamo_marked_constant = True  # type: ignore[attr-defined]


@contextmanager
def disabled() -> Iterator[None]:
    """Run everything in plain PyTorch within the context, in all threads."""
    global _disabled
    before, _disabled = _disabled, True
    try:
        yield
    finally:
        _disabled = before


def exporting() -> bool:
    """Whether a program is being exported or traced, which is to hold standard operators only."""
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export() or torch._C._get_tracing_state() is not None


# A compiler asks once and is told the truth: where torch 2.11 compiles, it takes is_exporting() to be always true.
exporting._dynamo_marked_constant = True  # type: ignore[attr-defined]


def qualifies(
    x: Tensor, weight_channel: Tensor, weight_width: Tensor, weight_height: Tensor, dilation: Sequence[int]
) -> bool:
    """Whether ``dicenas::dim_conv`` takes these arguments of :func:`dicenas.ops.dim_conv`, already checked there.

    It has kernel sizes 3 and 5 without dilation and three data types; on a GPU it takes the native size only. Exported
    programs are to hold standard operators only.
    """
    if (
        exporting()
        or not available(x.device)
        or weight_channel.shape[-1] not in KERNEL_SIZES
        or tuple(dilation) != (1, 1, 1)
    ):
        return False
    native = weight_height.shape[0], weight_width.shape[0]
    if x.device.type == "cuda" and native != tuple(x.shape[2:]):
        return False
    if min(*x.shape[1:], *native) < 1:
        return False
    weights = (weight_channel, weight_width, weight_height)
    if any(weight.device != x.device for weight in weights) or _other_differentiation():
        return False
    if torch.is_autocast_enabled(x.device.type):
        return all(t.is_floating_point() for t in (x, *weights))
    return x.dtype in DTYPES and all(weight.dtype == x.dtype for weight in weights)


def _other_differentiation() -> bool:
    """Whether something else than reverse-mode autograd differentiates, which the operators have no formulas for."""
    if torch.autograd.forward_ad._current_level >= 0:
        return True
    if not torch._C._are_functorch_transforms_active():
        return False
    grad = torch._C._functorch.TransformType.Grad
    return any(level.key() == grad for level in torch._C._functorch.get_interpreter_stack() or ())


# A compiler cannot follow it; it asks once, and guards what is at work.
_other_differentiation._dynamo_marked_constant = True  # type: ignore[attr-defined]


def transforms() -> bool:
    """Whether forward-mode differentiation or a transformation of torch.func is at work."""
    return torch.autograd.forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def trains(x: Tensor) -> bool:
    """Whether the operators of training take ``(N, C, H, W)`` here: on the CPU, not in exports or transformations."""
    return (
        x.device.type == "cpu"
        and available("cpu")
        and not exporting()
        and x.dtype in training.DTYPES
        and x.dim() == 4
        and x.is_contiguous()
        and x.numel() > x.shape[1]  # with one value a channel PyTorch has an error to raise, or nothing to do
        and not torch.is_autocast_enabled("cpu")
        and not transforms()
    )


def _train(name: str, tensors: Sequence[Tensor | None], *scalars: float) -> tuple[Tensor, ...]:
    """Run an operator of training, past the dispatcher where nobody looks."""
    run = getattr(gradients, name) if gradients.direct(*tensors) else training.operators[name]
    results: tuple[Tensor, ...] = run(*tensors, *scalars)
    return results


def norm_act(x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor, eps: float) -> tuple[Tensor, ...]:
    """Run ``dicenas::norm_act``; the result ``(N, C, H, W)`` and each channel's mean and unbiased variance."""
    return _train("norm_act", (x, weight, bias, slope), eps)


def depthwise_norm_act(
    x: Tensor, filter: Tensor, weight: Tensor, bias: Tensor, slope: Tensor, gate: Tensor | None, eps: float
) -> tuple[Tensor, ...]:
    """Run ``dicenas::depthwise_norm_act``; the same results."""
    return _train("depthwise_norm_act", (x, filter, weight, bias, slope, gate), eps)


def local_fusion(x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Run ``dicenas::local_fusion``: ``(N, 3C, H, W)`` to ``(N, C, H, W)``, its means ``(N, C)``, and statistics."""
    *tensors, eps, out_eps = arguments
    return _train("local_fusion", (x, *tensors), eps, out_eps)


def dice_unit_step(x: Tensor, *arguments: Any) -> tuple[Tensor, ...] | None:
    """Run the DiCE unit in training: ``(N, C, H, W)`` to the same, and the statistics of its three normalisations.

    The arguments are the filters of dimension-wise convolution; weight, bias and slope behind it; the weight of local
    fusion ``(C, 3, 1, 1)``, with weight, bias and slope; the two weights of the gate, ``(R, C, 1, 1)`` and
    ``(C, R, 1, 1)``; filter, weight, bias and slope of the spatial convolution; and each normalisation's ``eps``.

    Returns:
        ``None`` where these are to run by operators of their own: compilers and dispatch modes see them then.
    """
    *tensors, _, _, _ = arguments
    if x.dtype != torch.float32 or not gradients.direct(x, *tensors):
        return None
    y, *kept = unit_step.dice_unit_step(x, *arguments)
    return y, *kept[:6]


def dim_conv(x: Tensor, weight_channel: Tensor, weight_width: Tensor, weight_height: Tensor) -> Tensor:
    """Run ``dicenas::dim_conv`` on arguments that :func:`qualifies` accepts."""
    return definitions.dim_conv(x, weight_channel, weight_width, weight_height)


def dim_conv_local(x: Tensor, *constants: Tensor) -> Tensor:
    """Run ``dicenas::dim_conv_local``: ``(N, C, H, W)`` to the same, the unit up to local fusion, folded."""
    return definitions.dim_conv_local(x, *constants)


def dice_unit(x: Tensor, *constants: Tensor) -> Tensor:
    """Run ``dicenas::dice_unit``: ``(N, C, H, W)`` to the same, the whole unit, folded."""
    return definitions.dice_unit(x, *constants)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor) -> Tensor:
    """Run ``dicenas::pointwise`` on the CPU: a 1x1 convolution with bias and PReLU."""
    return definitions.pointwise(x, weight, bias, slope)


def select_pointwise(maps: Sequence[Tensor], channels: Tensor, weight: Tensor, bias: Tensor, slope: Tensor) -> Tensor:
    """Run ``dicenas::select_pointwise`` on the CPU: :func:`pointwise` of channels of several maps ``(N, C_i, H, W)``.

    ``channels`` are their numbers, int64, counted through all maps.
    """
    return definitions.select_pointwise(maps, channels, weight, bias, slope)


def select_channels(maps: Sequence[Tensor], channels: Tensor) -> Tensor:
    """Run ``dicenas::select_channels`` on the CPU: ``torch.cat(maps, 1)[:, channels]`` without the concatenation."""
    return definitions.select_channels(maps, channels)


def select_downsample(maps: Sequence[Tensor], channels: Tensor, constants: Tensor) -> tuple[Tensor, Tensor]:
    """Run ``dicenas::select_downsample`` on the CPU: two maps ``(N, C, ceil(H / 2), ceil(W / 2))`` of the channels.

    One is a depth-wise 3x3 convolution with bias and PReLU, whose nine weights, bias and slope a channel ``constants``
    ``(C, 11)`` holds, the other is average pooling over 3x3, both of stride 2 and padding 1.
    """
    return definitions.select_downsample(maps, channels, constants)


def describe() -> list[tuple[str, str, str]]:
    """Return (device, ``"yes"`` or ``"no"``, details) for the CPU and each GPU."""
    library = load_library("cpu")
    if library.handle is not None:
        library.handle.dicenas_cpu_isa.restype = ctypes.c_char_p
        details = f"{library.path}, {library.handle.dicenas_cpu_isa().decode()}"
    else:
        details = library.reason if library.path is None else f"{library.path}: {library.reason}"
    rows = [("cpu", "yes" if library.handle is not None else "no", details)]
    if not torch.cuda.is_available():
        code = find_cuda_code()
        where = "is compiled by NVRTC at first use" if code is None else f"is {code}"
        return [*rows, ("cuda", "no", f"torch finds no GPU; the code for one {where}")]
    for index in range(torch.cuda.device_count()):
        used, details = cuda.describe(torch.device("cuda", index))
        rows.append((f"cuda:{index}", "yes" if used else "no", f"{torch.cuda.get_device_name(index)}, {details}"))
    return rows
