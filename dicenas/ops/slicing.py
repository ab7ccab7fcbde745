"""Which part of a wide layer's weights a narrow one takes, for networks that share weights between widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import TypeAlias

from torch import Tensor, nn

__all__ = ["Positions", "branch_slices", "prefixes", "row_positions", "special_slices"]

#: Which entries of a larger parameter make up a smaller one: their positions along each dimension.
Positions: TypeAlias = tuple[Sequence[int], ...]


@singledispatch
def special_slices(narrow: nn.Module, wide: nn.Module) -> Mapping[str, Positions]:
    """Return what a module of this class takes of a wider one that is no prefix, by the names of its parameters.

    By default nothing; ``special_slices.register`` says it for a class of modules. (It is no method, since classes of
    modules are exported as source.)

    Args:
        narrow: The module that takes part of the weights.
        wide: The module of the same class that holds them.
    """
    return {}


def prefixes(wide: nn.Module, narrow: nn.Module) -> dict[str, Positions]:
    """Return for each parameter of a narrow module which part of a wide one's it takes: the first of all channels.

    Made for modules of torch's layers, one like the other but for their channels. What :func:`special_slices` says of a
    class of modules goes before. A grouped convolution whose groups have other numbers of channels has nothing to
    share: each of its filters would meet other channels. So has what only one of the modules has.

    Args:
        wide: The module that holds the weights.
        narrow: The module that takes part of them.

    Returns:
        Positions in the wide parameter, by the parameter's name; those that cannot be shared are left out.
    """
    twins = dict(wide.named_modules())
    chosen: dict[str, Positions] = {}
    for path, small in narrow.named_modules():  # outer modules first: they know how inner ones are arranged
        large = twins.get(path)
        if large is None or type(large) is not type(small):
            continue
        found = dict(special_slices(small, large))
        for name, parameter in small.named_parameters(recurse=False):
            other = getattr(large, name)
            if name not in found and isinstance(other, Tensor) and _prefix_fits(small, large, parameter, other):
                found[name] = tuple(range(size) for size in parameter.shape)
        for name, positions in found.items():
            chosen.setdefault(f"{path}.{name}" if path else name, positions)
    return chosen


def _prefix_fits(small: nn.Module, large: nn.Module, parameter: Tensor, other: Tensor) -> bool:
    if parameter.ndim != other.ndim or any(n > m for n, m in zip(parameter.shape, other.shape, strict=True)):
        return False
    if isinstance(small, nn.Conv2d) and isinstance(large, nn.Conv2d) and max(small.groups, large.groups) > 1:
        return _group_shape(small) == _group_shape(large)
    return True


def _group_shape(conv: nn.Conv2d) -> tuple[int, int]:
    return conv.in_channels // conv.groups, conv.out_channels // conv.groups


def branch_slices(narrow: nn.Module, wide: nn.Module, names: Sequence[str], branches: int) -> dict[str, Positions]:
    """Return what layers over several branches take of a wider module's: of each branch the first channels.

    Args:
        narrow: The module that takes part of the weights.
        wide: The module that holds them.
        names: Names of layers in both, with one value a channel, over branches that lie one behind the other.
        branches: Number of branches.
    """
    found: dict[str, Positions] = {}
    for name in names:
        for own, parameter in narrow.get_submodule(name).named_parameters():
            channels = len(parameter) // branches
            stride = len(wide.get_parameter(f"{name}.{own}")) // branches
            firsts = range(0, branches * stride, stride)
            found[f"{name}.{own}"] = (tuple(first + channel for first in firsts for channel in range(channels)),)
    return found


def row_positions(rows: int, more_rows: int) -> Sequence[int]:
    """Return which of the rows of a larger image are nearest to those of a smaller one that shows the same."""
    return tuple((2 * row + 1) * more_rows // (2 * rows) for row in range(rows))
