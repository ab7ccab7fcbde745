"""Multiply-adds of a module, counted by thop under this package's rules."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from dicenas.ops import DimConv

__all__ = ["MacsRule", "UncountedModuleError", "count_macs", "count_params", "register_macs_rule"]

#: Multiply-adds of one call of a module, from the module, its positional inputs and its output.
MacsRule: TypeAlias = Callable[[Any, tuple[Any, ...], Any], int]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class UncountedModuleError(ValueError):
    """A module has parameters of its own that no rule counts."""


def _nothing(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> int:
    return 0


def _dim_conv(module: DimConv, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    """Each branch has k * k multiply-adds an output element; two of them are computed at the native size."""
    n, channels, height, width = inputs[0].shape
    native_height, native_width = module.size
    elements = n * channels * (height * width + native_height * width + height * native_width)
    return elements * module.kernel_size**2


# The paper's "FLOPs" are multiply-adds of convolutions and linear layers; thop also counts the following.
_RULES: dict[type[nn.Module], MacsRule] = {
    nn.modules.batchnorm._NormBase: _nothing,
    nn.LayerNorm: _nothing,
    nn.GroupNorm: _nothing,
    nn.PReLU: _nothing,
    nn.LeakyReLU: _nothing,
    nn.Softmax: _nothing,
    nn.modules.pooling._AvgPoolNd: _nothing,
    nn.modules.pooling._AdaptiveAvgPoolNd: _nothing,
    nn.Upsample: _nothing,
    DimConv: _dim_conv,
}


def register_macs_rule(kind: type[nn.Module], rule: MacsRule) -> None:
    """Count modules of a type, and of its subclasses, by a rule; it covers the modules inside them too."""
    _RULES[kind] = rule


def count_macs(module: nn.Module, input_size: tuple[int, ...], *, batch: int = 1) -> int:
    """Count the multiply-adds of a forward pass: convolutions and linear layers, nothing else.

    Norms, activations, pooling and resizing count nothing, so that the figures compare with published "FLOPs".

    Args:
        module: Any module; it is not changed.
        input_size: Shape of one input without the batch, such as ``(3, 224, 224)``.
        batch: Images in the pass.

    Raises:
        UncountedModuleError: A module has parameters that no rule counts.
        ImportError: thop is not installed.
    """
    try:
        from thop.profile import profile, register_hooks
    except ImportError as error:
        raise ImportError("counting multiply-adds needs thop: pip install 'dicenas[cost]'") from error

    uncounted = [
        f"{name or 'the module itself'} ({type(m).__name__})" for name, m in _uncounted(module, "", register_hooks)
    ]
    if uncounted:
        raise UncountedModuleError(
            f"no rule counts the parameters of {', '.join(uncounted)}; "
            "register one with dicenas.cost.register_macs_rule"
        )
    hooks = {type(m): hook for m in module.modules() if (hook := _hook(type(m), register_hooks)) is not None}
    counted = copy.deepcopy(module)  # thop leaves marks in the modules that it counts
    parameter = next(counted.parameters(), torch.empty(0))
    x = torch.zeros(batch, *input_size, device=parameter.device, dtype=parameter.dtype)
    macs, _ = profile(counted, (x,), custom_ops=hooks, verbose=False)
    return round(macs)


def count_params(module: nn.Module, *, trainable_only: bool = False) -> int:
    """Count the parameters of a module, shared ones once."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable_only)


def _hook(kind: type[nn.Module], thop_hooks: dict[type[nn.Module], Any]) -> Callable[..., None] | None:
    """Return the forward hook that counts a type: of the nearest class with a rule of ours, else of thop's."""
    for base in kind.__mro__:
        if base in _RULES:
            rule = _RULES[base]

            def hook(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
                module.total_ops += rule(module, inputs, output)  # noqa: B023  (returned at once)

            return hook
    return next((thop_hooks[base] for base in kind.__mro__ if base in thop_hooks and base not in _CONTAINERS), None)


def _uncounted(module: nn.Module, name: str, thop_hooks: dict[type[nn.Module], Any]) -> Iterator[tuple[str, nn.Module]]:
    if _hook(type(module), thop_hooks) is not None:
        return
    if next(module.parameters(recurse=False), None) is not None:
        yield name, module
    for child_name, child in module.named_children():
        yield from _uncounted(child, f"{name}.{child_name}" if name else child_name, thop_hooks)
