"""Candidate ops as primitives of DARTS-style cells (arXiv 1806.09055): ``OPS[name](C, stride, affine)``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from torch import nn

from dicenas.ops import build_candidate, expand_candidates

__all__ = ["DEFAULT_PRIMITIVES", "Primitive", "primitives", "without_affine"]

#: Builds a primitive from its channels, its stride and whether its norms have learnable parameters.
Primitive: TypeAlias = Callable[[int, int, bool], nn.Module]

#: Ops offered by default.
DEFAULT_PRIMITIVES = ("separable", "separable_se", "dice")


def primitives(
    image_size: int = 32,
    channels: int = 16,
    ops: Iterable[str] = DEFAULT_PRIMITIVES,
    activation: str = "relu",
) -> dict[str, Primitive]:
    """Return a dictionary that extends DARTS' ``OPS``: each entry maps ``(C, stride, affine)`` to a module.

    DARTS doubles the channels wherever it halves the maps, so the size of a cell follows from its channels: the
    native size of the DiCE unit needs no argument of its own. Maps of other sizes work too, they are resized.

    Args:
        image_size: Size of the maps that the first cell takes, in pixels.
        channels: Channels of the first cell (``init_channels``).
        ops: Names of ops or candidates; an op's name stands for all its kernel sizes.
        activation: Name of the activation.

    Raises:
        ValueError: An op or activation that does not exist; from a primitive, channels that are no multiple of
            ``channels`` by a power of two.

    Example:
        >>> OPS.update(primitives(image_size=32, channels=16))
        >>> PRIMITIVES += ["dice_k3"]
    """

    def primitive(candidate: str) -> Primitive:
        def build(C: int, stride: int, affine: bool) -> nn.Module:
            factor, rest = divmod(C, channels)
            if rest or factor < 1 or image_size // factor < 1:
                raise ValueError(
                    f"{candidate}: a cell of {C} channels is no reduction of {image_size} pixels with {channels} "
                    "channels"
                )
            size = (image_size // factor, image_size // factor)
            module = build_candidate(candidate, C, C, stride, size, activation, final_activation=False)
            return module if affine else without_affine(module)

        return build

    return {candidate: primitive(candidate) for candidate in expand_candidates(ops)}


def without_affine(module: nn.Module) -> nn.Module:
    """Take the learnable parameters from the batch norms of a module, as DARTS does while it searches."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.affine = False
            child.register_parameter("weight", None)
            child.register_parameter("bias", None)
    return module
