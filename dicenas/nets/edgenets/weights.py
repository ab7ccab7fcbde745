"""Fills a module with the ``state_dict`` of its EdgeNets counterpart, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dicenas.nets.edgenets.names import upstream_keys

__all__ = ["load_state_dict"]

_SHOWN = 5  # keys that a message names for each kind of problem


def load_state_dict(module: nn.Module, upstream_state_dict: Mapping[str, Tensor]) -> None:
    """Fill ``module`` with the weights of its EdgeNets counterpart.

    Args:
        module: A :class:`~dicenas.ops.DiCE`, :class:`~dicenas.ops.StridedDiCE`, ShuffleNetV2 unit with a DiCE unit
            in it, DiCENet, its segmentation network, or one of that network's blocks.
        upstream_state_dict: The counterpart's ``state_dict``.

    Raises:
        TypeError: EdgeNets has no counterpart of the module.
        ValueError: Keys are missing, unknown or of another shape; the message names the first of each kind, and the
            module keeps its weights.
    """
    keys = upstream_keys(module)
    own = module.state_dict()
    # torch before 0.4.1 did not save the counter, and nothing depends on it.
    missing = [k for k in keys.values() if k not in upstream_state_dict and not k.endswith("num_batches_tracked")]
    known = set(keys.values())
    unknown = [key for key in upstream_state_dict if key not in known]
    misshapen = [
        f"{key} has shape {tuple(upstream_state_dict[key].shape)}, expected {tuple(own[name].shape)}"
        for name, key in keys.items()
        if key in upstream_state_dict and upstream_state_dict[key].shape != own[name].shape
    ]
    problems = [
        *_first([f"missing key {key}" for key in missing], "missing"),
        *_first([f"unknown key {key}" for key in unknown], "unknown"),
        *_first(misshapen, "of another shape"),
    ]
    if problems:
        raise ValueError(f"these are not the weights of this {type(module).__name__}: {'; '.join(problems)}")
    with torch.no_grad():
        for name, key in keys.items():
            if key in upstream_state_dict:
                own[name].copy_(upstream_state_dict[key])


def _first(problems: list[str], kind: str) -> list[str]:
    rest = len(problems) - _SHOWN
    return [*problems[:_SHOWN], f"{rest} more {kind}"] if rest > 1 else problems
