"""Reads the ``state_dict`` of torchvision's networks into ours.

The two differ in names alone; every tensor keeps its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor, nn

from dicenas.nets.backbone import Network
from dicenas.nets.heads import LinearClassifier
from dicenas.nets.mobilenetv2 import InvertedResidual, MobileNetV2
from dicenas.nets.shufflenetv2 import ShuffleUnit, StridedShuffleUnit
from dicenas.nets.shufflenetv2_layouts import ShuffleNetV2Torchvision
from dicenas.nets.state_dicts import fill
from dicenas.ops import ConvNormAct, SeparableConv

__all__ = ["load_state_dict", "torchvision_keys"]

_Pairs = Iterator[tuple[str, str]]


def load_state_dict(network: Network, torchvision_state_dict: Mapping[str, Tensor]) -> None:
    """Fill a network with the weights of its torchvision counterpart.

    Args:
        network: A published network in torchvision's layout: ``shufflenetv2(width, layout="torchvision")``, or
            MobileNetV2 of any width, with any number of classes.
        torchvision_state_dict: The counterpart's ``state_dict``, such as that of ``shufflenet_v2_x1_0``.

    Raises:
        TypeError: torchvision has no counterpart of the network.
        ValueError: Keys are missing, unknown or of another shape; the message names the first of each kind, and the
            network keeps its weights.
    """
    fill(network, torchvision_keys(network), torchvision_state_dict)


def torchvision_keys(network: Network) -> dict[str, str]:
    """Return our ``state_dict`` key of each tensor with torchvision's key of the same tensor.

    Raises:
        TypeError: torchvision has no counterpart of the network.
    """
    backbone = network.architecture.backbone
    if backbone not in _PAIRS:
        raise TypeError(f"torchvision has no counterpart of a {backbone} network; it has of {', '.join(_PAIRS)}")
    return dict(_PAIRS[backbone](network))


def _tensors(module: nn.Module, own: str, theirs: str) -> _Pairs:
    """Tensors of a module whose own names are the same on both sides."""
    for name in module.state_dict():
        yield f"{own}.{name}", f"{theirs}.{name}"


def _conv_norm(module: nn.Module, own: str, conv: str, norm: str) -> _Pairs:
    """A convolution and its normalisation; the activations of these networks have no tensors."""
    if not isinstance(module, ConvNormAct):
        raise _no_counterpart(module)
    yield from _tensors(module.conv, f"{own}.conv", conv)
    yield from _tensors(module.norm, f"{own}.norm", norm)


def _separable(module: nn.Module, own: str, layers: tuple[str, str, str, str]) -> _Pairs:
    """A separable convolution, with torchvision's names of its four layers."""
    if not isinstance(module, SeparableConv) or not isinstance(module.se, nn.Identity):
        raise _no_counterpart(module)
    yield from _conv_norm(module.depthwise, f"{own}.depthwise", *layers[:2])
    yield from _conv_norm(module.pointwise, f"{own}.pointwise", *layers[2:])


def _no_counterpart(module: nn.Module) -> TypeError:
    return TypeError(f"torchvision has no counterpart of {type(module).__name__}; its networks have separable_k3")


def _blocks(network: Network) -> Iterator[tuple[str, int, int, nn.Module]]:
    """Yield the blocks of all stages: our name, stage and position, counted from 0, and the block."""
    for number, stage in enumerate(network.stages):
        for position, block in enumerate(stage.children()):
            yield f"stages.{number}.{position}", number, position, block


def _shufflenetv2(network: Network) -> _Pairs:
    stem, head = network.stem, network.head
    assert isinstance(stem, nn.Sequential)
    assert isinstance(head, LinearClassifier)
    yield from _conv_norm(stem[0], "stem.0", "conv1.0", "conv1.1")
    for own, number, position, unit in _blocks(network):
        theirs = f"stage{number + 2}.{position}"
        first, second = f"{theirs}.branch1", f"{theirs}.branch2"
        op_layers = (f"{second}.3", f"{second}.4", f"{second}.5", f"{second}.6")
        if isinstance(unit, StridedShuffleUnit):
            left_layers = (f"{first}.0", f"{first}.1", f"{first}.2", f"{first}.3")
            yield from _separable(unit.left, f"{own}.left", left_layers)
            yield from _conv_norm(unit.right[0], f"{own}.right.0", f"{second}.0", f"{second}.1")
            yield from _separable(unit.right[1], f"{own}.right.1", op_layers)
        else:
            assert isinstance(unit, ShuffleUnit)
            yield from _conv_norm(unit.pointwise, f"{own}.pointwise", f"{second}.0", f"{second}.1")
            yield from _separable(unit.op, f"{own}.op", op_layers)
    yield from _conv_norm(head.conv, "head.conv", "conv5.0", "conv5.1")
    yield from _tensors(head.classifier, "head.classifier", "fc")


def _mobilenetv2(network: Network) -> _Pairs:
    head = network.head
    assert isinstance(head, LinearClassifier)
    yield from _conv_norm(network.stem, "stem", "features.0.0", "features.0.1")
    number = 0
    for number, (own, _, _, block) in enumerate(_blocks(network), 1):
        assert isinstance(block, InvertedResidual)
        theirs, layer = f"features.{number}.conv", 0
        if not isinstance(block.expand, nn.Identity):
            yield from _conv_norm(block.expand, f"{own}.expand", f"{theirs}.0.0", f"{theirs}.0.1")
            layer = 1
        depthwise, pointwise = f"{theirs}.{layer}", (f"{theirs}.{layer + 1}", f"{theirs}.{layer + 2}")
        yield from _separable(block.op, f"{own}.op", (f"{depthwise}.0", f"{depthwise}.1", *pointwise))
    yield from _conv_norm(head.conv, "head.conv", f"features.{number + 1}.0", f"features.{number + 1}.1")
    yield from _tensors(head.classifier, "head.classifier", "classifier.1")


_PAIRS: dict[str, Callable[[Network], _Pairs]] = {
    ShuffleNetV2Torchvision.name: _shufflenetv2,
    MobileNetV2.name: _mobilenetv2,
}
