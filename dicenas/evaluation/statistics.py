"""Running statistics of normalisations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

__all__ = ["quick_statistics"]


@contextlib.contextmanager
def quick_statistics(net: nn.Module, steps: int) -> Iterator[None]:
    """Let the running statistics of normalisations keep pace with a training of so many steps.

    Momenta that were published for days of training, such as MnasNet's 0.0003, would leave them near where they
    started. In a short training they are such that its last tenth decides, or torch's own 0.1 if that is less.
    """
    least = min(0.1, 10 / steps)
    norms = (module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    slow = {norm: norm.momentum for norm in norms if norm.momentum is not None and norm.momentum < least}
    for norm in slow:
        norm.momentum = least
    try:
        yield
    finally:
        for norm, momentum in slow.items():
            norm.momentum = momentum
