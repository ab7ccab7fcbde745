"""Fills a module with tensors that others gave other names, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["fill", "is_weight"]

_SHOWN = 5  # keys that a message names for each kind of problem


def is_weight(value: object) -> bool:
    """Return whether a value of a ``state_dict`` is a tensor that a parameter can be copied from."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not (value.is_meta or value.is_quantized or value.is_complex())
    )


def fill(module: nn.Module, keys: Mapping[str, str], state_dict: Mapping[str, Tensor]) -> None:
    """Fill ``module`` with the weights of its counterpart in another project.

    Args:
        module: What to fill; all its tensors are.
        keys: Our ``state_dict`` key of each tensor with the counterpart's.
        state_dict: The counterpart's ``state_dict``. A linear layer behind global pooling may be a point-wise
            convolution there.

    Raises:
        ValueError: Keys are missing, unknown, of another shape or no dense tensors; the message names the first of
            each kind, and the module keeps its weights.
    """
    others = [f"{key} is no dense tensor" for key, value in state_dict.items() if not is_weight(value)]
    if others:
        raise ValueError(f"this is no state_dict: {'; '.join(_first(others, 'that are none'))}")
    own = module.state_dict()
    # torch before 0.4.1 did not save the counter, and nothing depends on it.
    missing = [key for key in keys.values() if key not in state_dict and not key.endswith("num_batches_tracked")]
    known = set(keys.values())
    unknown = [key for key in state_dict if key not in known]
    given = {name: _as_linear(state_dict[key], own[name]) for name, key in keys.items() if key in state_dict}
    misshapen = [
        f"{keys[name]} has shape {tuple(tensor.shape)}, expected {tuple(own[name].shape)}"
        for name, tensor in given.items()
        if tensor.shape != own[name].shape
    ]
    problems = [
        *_first([f"missing key {key}" for key in missing], "missing"),
        *_first([f"unknown key {key}" for key in unknown], "unknown"),
        *_first(misshapen, "of another shape"),
    ]
    if problems:
        raise ValueError(f"these are not the weights of this {type(module).__name__}: {'; '.join(problems)}")
    with torch.no_grad():
        for name, tensor in given.items():
            own[name].copy_(tensor)


def _as_linear(tensor: Tensor, own: Tensor) -> Tensor:
    """Return the weight of a point-wise convolution as that of a linear layer, where ours is one."""
    return tensor.flatten(1) if own.dim() == 2 and tensor.dim() == 4 and tensor.shape[2:] == (1, 1) else tensor


def _first(problems: list[str], kind: str) -> list[str]:
    rest = len(problems) - _SHOWN
    return [*problems[:_SHOWN], f"{rest} more {kind}"] if rest > 1 else problems
