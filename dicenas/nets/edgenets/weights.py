"""Fills a module with the ``state_dict`` of its EdgeNets counterpart, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from dicenas.nets.edgenets.names import upstream_keys
from dicenas.nets.state_dicts import fill

__all__ = ["load_state_dict"]


def load_state_dict(module: nn.Module, upstream_state_dict: Mapping[str, Tensor]) -> None:
    """Fill ``module`` with the weights of its EdgeNets counterpart.

    Args:
        module: A :class:`~dicenas.ops.DiCE`, :class:`~dicenas.ops.StridedDiCE`, ShuffleNetV2 unit with a DiCE unit
            or a separable convolution in it, DiCENet, its segmentation network, one of that network's blocks, or
            EdgeNets' ShuffleNetV2.
        upstream_state_dict: The counterpart's ``state_dict``.

    Raises:
        TypeError: EdgeNets has no counterpart of the module.
        ValueError: Keys are missing, unknown or of another shape; the message names the first of each kind, and the
            module keeps its weights.
    """
    fill(module, upstream_keys(module), upstream_state_dict)
