"""Reads the weights published with DiCENet: the ``state_dict`` of EdgeNets modules into ours.

The two differ in names alone; every tensor keeps its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from dicenas.nets.backbone import Network
from dicenas.nets.shufflenetv2 import GroupedClassifier, ShuffleUnit
from dicenas.ops import ConvNormAct, DiCE, StridedDiCE

__all__ = ["load_state_dict", "upstream_keys"]

_Pairs = Iterator[tuple[str, str]]


def load_state_dict(module: nn.Module, upstream_state_dict: Mapping[str, Tensor]) -> None:
    """Fill ``module`` with the weights of its EdgeNets counterpart.

    Args:
        module: A :class:`~dicenas.ops.DiCE`, :class:`~dicenas.ops.StridedDiCE`, ShuffleNetV2 unit with a DiCE unit
            in it, or DiCENet.
        upstream_state_dict: The counterpart's ``state_dict``.

    Raises:
        TypeError: EdgeNets has no counterpart of the module.
        ValueError: Keys are missing, unknown or of another shape; the message names them, and the module keeps its
            weights.
    """
    keys = upstream_keys(module)
    own = module.state_dict()
    problems = []
    if missing := [key for key in keys.values() if key not in upstream_state_dict]:
        # torch before 0.4.1 did not save the counter, and nothing depends on it.
        missing = [key for key in missing if not key.endswith("num_batches_tracked")]
        problems += [f"missing key {key}" for key in missing]
    known = set(keys.values())
    problems += [f"unknown key {key}" for key in upstream_state_dict if key not in known]
    for name, key in keys.items():
        if key in upstream_state_dict and upstream_state_dict[key].shape != own[name].shape:
            given, expected = tuple(upstream_state_dict[key].shape), tuple(own[name].shape)
            problems.append(f"{key} has shape {given}, expected {expected}")
    if problems:
        shown = "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise ValueError(f"these are not the weights of this {type(module).__name__}: {shown}")
    with torch.no_grad():
        for name, key in keys.items():
            if key in upstream_state_dict:
                own[name].copy_(upstream_state_dict[key])


def upstream_keys(module: nn.Module) -> dict[str, str]:
    """Return our ``state_dict`` key of each tensor with EdgeNets' key of the same tensor.

    Raises:
        TypeError: EdgeNets has no counterpart of the module.
    """
    return dict(_pairs(module, "", ""))


def _pairs(module: nn.Module, own: str, theirs: str) -> _Pairs:
    for kind, pairs in _PAIRS.items():
        if isinstance(module, kind):
            yield from pairs(module, own, theirs)
            return
    supported = ", ".join(kind.__name__ for kind in _PAIRS)
    raise TypeError(f"EdgeNets has no counterpart of {type(module).__name__}; supported: {supported}")


def _tensors(module: nn.Module, own: str, theirs: str) -> _Pairs:
    """Tensors of a module whose own names are the same on both sides."""
    for name in module.state_dict():
        yield own + name, theirs + name


def _conv_norm_act(module: ConvNormAct, own: str, theirs: str) -> _Pairs:
    for position, child in enumerate((module.conv, module.norm, module.act)):
        name = ("conv", "norm", "act")[position]
        yield from _tensors(child, f"{own}{name}.", f"{theirs}cbr.{position}.")


def _dice(module: DiCE, own: str, theirs: str) -> _Pairs:
    for axis in ("channel", "width", "height"):
        yield f"{own}dim_conv.weight_{axis}", f"{theirs}conv_{axis}.weight"
    yield from _tensors(module.norm, f"{own}norm.", f"{theirs}br_act.br.0.")
    yield from _tensors(module.act, f"{own}act.", f"{theirs}br_act.br.1.")
    fuse = f"{own}dim_fuse."
    yield from _conv_norm_act(module.dim_fuse.local, f"{fuse}local.", f"{theirs}weight_avg_layer.")
    yield from _conv_norm_act(module.dim_fuse.spatial, f"{fuse}spatial.", f"{theirs}proj_layer.")
    yield f"{fuse}gate_reduce.weight", f"{theirs}linear_comb_layer.1.weight"
    yield f"{fuse}gate_expand.weight", f"{theirs}linear_comb_layer.3.weight"


def _strided_dice(module: StridedDiCE, own: str, theirs: str) -> _Pairs:
    for side in ("left", "right"):
        for position, child in enumerate(getattr(module, side)):
            if not isinstance(child, nn.AvgPool2d):
                yield from _pairs(child, f"{own}{side}.{position}.", f"{theirs}{side}_layer.{position}.")


def _shuffle_unit(module: ShuffleUnit, own: str, theirs: str) -> _Pairs:
    yield from _pairs(module.pointwise, f"{own}pointwise.", f"{theirs}layer_right.0.")
    yield from _pairs(module.op, f"{own}op.", f"{theirs}layer_right.1.")


def _network(module: Network, own: str, theirs: str) -> _Pairs:
    head = module.head
    if not isinstance(head, GroupedClassifier) or not isinstance(module.stem, nn.Sequential):
        raise TypeError(f"EdgeNets has no counterpart of a {module.architecture.backbone} network")
    yield from _pairs(module.stem[0], f"{own}stem.0.", f"{theirs}level1.")
    for number, stage in enumerate(module.stages):
        assert isinstance(stage, nn.Sequential)
        for position, unit in enumerate(stage):
            yield from _pairs(unit, f"{own}stages.{number}.{position}.", f"{theirs}level{number + 3}.{position}.")
    yield f"{own}head.expand.weight", f"{theirs}classifier.0.weight"
    yield from _tensors(head.classifier, f"{own}head.classifier.", f"{theirs}classifier.2.")


_PAIRS: dict[type[nn.Module], Callable[..., _Pairs]] = {
    ConvNormAct: _conv_norm_act,
    DiCE: _dice,
    StridedDiCE: _strided_dice,
    ShuffleUnit: _shuffle_unit,
    Network: _network,
}
