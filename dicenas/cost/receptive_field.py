"""How far a module sees: which pixels of its input one pixel of its output depends on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dicenas.ops import kernels

__all__ = ["ReceptiveField", "receptive_field"]

_INPUTS = 4


@dataclass(frozen=True)
class ReceptiveField:
    """The part of a module's input that one pixel of its output depends on.

    Attributes:
        height: Rows of the window of pixels that it sees one by one.
        width: Columns of that window.
        sees_all: Whether it depends on the whole map besides, through a global average as gates take.
    """

    height: int
    width: int
    sees_all: bool

    def __str__(self) -> str:
        window = str(self.height) if self.height == self.width else f"{self.height}×{self.width}"
        return f"{window} + global" if self.sees_all else window


def receptive_field(module: nn.Module, input_size: tuple[int, int, int]) -> ReceptiveField:
    """Return the receptive field of a module, from the gradient of the pixel in the middle of its output.

    Args:
        module: Maps ``(N, C, H, W)`` to ``(N, C', H', W')``; it is not changed. Weights that are zero hide what
            they do not let through.
        input_size: ``(C, H, W)`` of the input; a window that is larger is cut.
    """
    twin = copy.deepcopy(module).eval().to("cpu", torch.float64)
    x = torch.randn(_INPUTS, *input_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with kernels.disabled(), _WithoutDeadActivations():
        everything = _seen(twin, x)
        with _WithoutGlobalAverages():
            window = _seen(twin, x)
    rows, columns = (_extent(window.any(axis)) for axis in (1, 0))
    return ReceptiveField(rows, columns, sees_all=not torch.equal(everything, window))


def _seen(module: nn.Module, x: Tensor) -> Tensor:
    """Return which pixels ``(H, W)`` have a part in the middle of the output."""
    x = x.clone().requires_grad_()
    out = module(x)
    middle = out[:, :, out.shape[2] // 2, out.shape[3] // 2]
    if not middle.requires_grad:
        return torch.zeros(x.shape[2:], dtype=torch.bool)
    weights = torch.randn(middle.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    (grad,) = torch.autograd.grad((middle * weights).sum(), x)
    return (grad != 0).flatten(0, 1).any(0)


def _extent(seen: Tensor) -> int:
    places = seen.nonzero()
    return int(places.max() - places.min()) + 1 if len(places) else 0


class _WithoutDeadActivations(TorchFunctionMode):
    """Activations that are flat somewhere let everything through: which pixels count must not hang on the weights."""

    _SMOOTH: Mapping[Any, Callable[[Tensor], Tensor]] = {
        F.relu: F.softplus,
        torch.relu: F.softplus,
        F.relu6: F.softplus,
        F.hardtanh: torch.tanh,
        F.hardsigmoid: torch.sigmoid,
        F.hardswish: F.silu,
    }

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in self._SMOOTH:
            return self._SMOOTH[func](args[0])
        return func(*args, **(kwargs or {}))


class _WithoutGlobalAverages(TorchFunctionMode):
    """No gradient passes through means and adaptive pooling, the ways in which a gate sees the map."""

    _AVERAGES = (Tensor.mean, torch.mean, F.adaptive_avg_pool2d)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        return result.detach() if func in self._AVERAGES else result
