"""Multiply-adds of a module, counted by thop under this package's rules."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from dicenas.ops import DimConv

__all__ = [
    "CountedModule",
    "MacsRule",
    "UncountedModuleError",
    "count_macs",
    "count_modules",
    "count_params",
    "register_macs_rule",
]

#: Multiply-adds of one call of a module, from the module, its positional inputs and its output.
MacsRule: TypeAlias = Callable[[Any, tuple[Any, ...], Any], int]

#: Adds the multiply-adds of a call to ``module.total_ops``, as thop's rules do.
_Hook: TypeAlias = Callable[[Any, tuple[Any, ...], Any], None]


class UncountedModuleError(ValueError):
    """A module has parameters of its own that no rule counts."""


@dataclass(frozen=True)
class CountedModule:
    """A module that a rule counts, and what it counted in a forward pass.

    Attributes:
        name: Name in the network; empty for the network itself.
        module: A copy of the module, on the device of the network.
        macs: Multiply-adds for the whole batch, of all its calls.
        out_shape: Shape of the output of its last call; empty where that is no tensor.
    """

    name: str
    module: nn.Module
    macs: int
    out_shape: tuple[int, ...]


def _nothing(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> int:
    return 0


def _dim_conv(module: DimConv, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    """Each branch has k * k multiply-adds an output element; two of them are computed at the native size."""
    n, channels, height, width = inputs[0].shape
    native_height, native_width = module.size
    elements = n * channels * (height * width + native_height * width + height * native_width)
    return elements * module.kernel_size**2


def _transposed_conv(module: nn.modules.conv._ConvTransposeNd, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    """Each input element meets the filters of its group; thop counts as many for each output element."""
    return inputs[0].numel() * module.weight[0].numel()


# The paper's "FLOPs" are multiply-adds of convolutions and linear layers; thop also counts most of the following.
_RULES: dict[type[nn.Module], MacsRule] = {
    nn.modules.batchnorm._NormBase: _nothing,
    nn.LayerNorm: _nothing,
    nn.GroupNorm: _nothing,
    nn.RMSNorm: _nothing,
    nn.PReLU: _nothing,
    nn.LeakyReLU: _nothing,
    nn.Softmax: _nothing,
    nn.modules.pooling._AvgPoolNd: _nothing,
    nn.modules.pooling._AdaptiveAvgPoolNd: _nothing,
    nn.Upsample: _nothing,
    nn.modules.conv._ConvTransposeNd: _transposed_conv,
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
    return sum(counted.macs for counted in count_modules(module, input_size, batch=batch))


def count_modules(module: nn.Module, input_size: tuple[int, ...], *, batch: int = 1) -> list[CountedModule]:
    """Count the multiply-adds of a forward pass module by module; arguments and errors as :func:`count_macs`.

    Returns:
        The outermost modules that a rule counts, norms and activations with nothing, in the order of
        ``module.named_modules()``; none of them holds another.
    """
    try:
        from thop.profile import register_hooks as thop_hooks
    except ImportError as error:
        raise ImportError("counting multiply-adds needs thop: pip install 'dicenas[cost]'") from error

    twin = copy.deepcopy(module).eval()  # the rules leave their sums in the modules
    units: list[tuple[str, Any]] = []
    uncounted: list[str] = []
    out_shapes: dict[nn.Module, tuple[int, ...]] = {}

    def note_shape(unit: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        out_shapes[unit] = tuple(output.shape) if isinstance(output, Tensor) else ()

    for name, unit, hook in _units(twin, "", thop_hooks, set()):
        if hook is None:
            uncounted.append(f"{name or 'the module itself'} ({type(unit).__name__})")
        else:
            unit.total_ops = torch.zeros(1, dtype=torch.float64, device="cpu")
            unit.register_forward_hook(hook)
            unit.register_forward_hook(note_shape)
            units.append((name, unit))
    if uncounted:
        raise UncountedModuleError(
            f"no rule counts the parameters of {', '.join(uncounted)}; "
            "register one with dicenas.cost.register_macs_rule"
        )
    parameter = next(twin.parameters(), torch.empty(0))
    with torch.no_grad():
        twin(torch.zeros(batch, *input_size, device=parameter.device, dtype=parameter.dtype))
    return [CountedModule(name, unit, round(unit.total_ops.item()), out_shapes.get(unit, ())) for name, unit in units]


def count_params(module: nn.Module, *, trainable_only: bool = False) -> int:
    """Count the parameters of a module, shared ones once."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable_only)


def _units(
    module: nn.Module, name: str, thop_hooks: dict[type[nn.Module], _Hook], seen: set[nn.Module]
) -> Iterator[tuple[str, nn.Module, _Hook | None]]:
    """Find the outermost modules that a rule counts, each once, and with None those that have need of one.

    thop's own ``profile`` counts the modules inside a counted one again where that is the outermost of all or a kind
    of ``nn.Sequential``, and modules that are shared several times over.
    """
    if module in seen:
        return
    seen.add(module)
    hook = _hook(type(module), thop_hooks)
    if hook is not None:
        yield name, module, hook
        return
    if next(module.parameters(recurse=False), None) is not None:
        yield name, module, None
    for child_name, child in module.named_children():
        yield from _units(child, f"{name}.{child_name}" if name else child_name, thop_hooks, seen)


def _hook(kind: type[nn.Module], thop_hooks: dict[type[nn.Module], _Hook]) -> _Hook | None:
    """Return the hook that counts a type: of the nearest class with a rule of ours, else of thop's."""
    rule = next((_RULES[base] for base in kind.__mro__ if base in _RULES), None)
    if rule is not None:

        def hook(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
            module.total_ops += rule(module, inputs, output)

        return hook
    # thop has a rule for nn.Sequential, which counts nothing.
    return next((thop_hooks[base] for base in kind.__mro__ if base in thop_hooks and base is not nn.Sequential), None)
