"""Candidate ops as primitives of NASLib's graphs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dicenas.integrations.darts import without_affine
from dicenas.ops import build_candidate

__all__ = ["make_primitive"]


def make_primitive(abstract_primitive: type[nn.Module]) -> type[nn.Module]:
    """Return the class of primitives that holds a candidate op, derived from NASLib's own base class.

    NASLib recognises the modules on a graph's edges by that class, so it is given here and NASLib need not be
    imported by this package.

    Args:
        abstract_primitive: ``naslib.search_spaces.core.primitives.AbstractPrimitive``.

    Returns:
        A class with the constructor ``(candidate, C_in, C_out, size, stride=1, affine=True, activation="relu")``,
        ``size`` being ``(H, W)`` of the output.

    Example:
        >>> DicenasOp = make_primitive(AbstractPrimitive)
        >>> graph.edges[1, 2].set("op", [DicenasOp("dice_k3", 16, 16, (32, 32)), Identity()])
    """

    class DicenasPrimitive(abstract_primitive):  # type: ignore[misc, valid-type]
        """A candidate op on an edge: ``(N, C_in, sH, sW)`` to ``(N, C_out, H, W)``."""

        def __init__(
            self,
            candidate: str,
            C_in: int,
            C_out: int,
            size: tuple[int, int],
            stride: int = 1,
            affine: bool = True,
            activation: str = "relu",
            **kwargs: Any,
        ) -> None:
            # NASLib's base keeps the arguments for its bookkeeping: it is given them all, as its own primitives do.
            super().__init__(locals())
            self.op = build_candidate(candidate, C_in, C_out, stride, size, activation, final_activation=False)
            if not affine:
                without_affine(self.op)
            self.candidate = candidate

        def forward(self, x: Tensor, edge_data: Any = None) -> Tensor:
            output: Tensor = self.op(x)
            return output

        def get_embedded_ops(self) -> None:
            """Return that there is no graph inside."""

        @property
        def get_op_name(self) -> str:
            """Name under which NASLib logs the op."""
            return self.candidate

    return DicenasPrimitive
