"""The candidate ops as primitives of NASLib: modules on the edges of a graph, called with the edge's data.

NASLib does not install on Python 3.11 and later. Where it is missing, its base class stands here as published, so that
the calling convention is the real one.

Run: python examples/naslib_primitives.py
"""

from typing import Any

import torch
from torch import Tensor, nn

from dicenas.integrations.naslib import make_primitive

try:
    from naslib.search_spaces.core.primitives import AbstractPrimitive
except ImportError:

    class AbstractPrimitive(nn.Module):  # type: ignore[no-redef]
        """Keeps the arguments of its constructor, as NASLib's does."""

        def __init__(self, kwargs: dict[str, Any]) -> None:
            super().__init__()
            self.init_params = {name: value for name, value in kwargs.items() if name not in {"self", "__class__"}}


def main() -> None:
    """Offer ops on an edge from 16 channels to 32 and show what each of them makes of a map."""
    DicenasOp = make_primitive(AbstractPrimitive)
    names = ["separable_k3", "separable_k5", "separable_se_k3", "dice_k3"]
    # With NASLib: graph.edges[1, 2].set("op", ops)
    ops = [DicenasOp(name, 16, 32, size=(16, 16), stride=2, affine=False) for name in names]
    x = torch.randn(2, 16, 32, 32)
    edge_data: dict[str, Tensor] = {}
    for op in ops:
        y = op(x, edge_data)
        params = sum(p.numel() for p in op.parameters())
        print(f"{op.get_op_name:<16} {tuple(x.shape)} -> {tuple(y.shape)}, {params:,} parameters")
    mixed = sum(weight * op(x, edge_data) for weight, op in zip(torch.zeros(len(ops)).softmax(0), ops, strict=True))
    print(f"mixed op of DARTS, as NASLib's optimizers build it: {tuple(mixed.shape)}")


if __name__ == "__main__":
    main()
