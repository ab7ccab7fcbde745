"""Reads the ``state_dict`` of torchvision's networks into ours.

The two differ in names alone; every tensor keeps its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor, nn

from dicenas.nets.backbone import Network, get_backbone
from dicenas.nets.heads import HiddenClassifier, LinearClassifier
from dicenas.nets.inverted_residual import InvertedResidual, InvertedResidualBackbone
from dicenas.nets.mobilenetv2 import MobileNetV2
from dicenas.nets.searched import MnasNet, MobileNetV3Large, MobileNetV3Small
from dicenas.nets.shufflenetv2 import ShuffleUnit, StridedShuffleUnit
from dicenas.nets.shufflenetv2_layouts import ShuffleNetV2Torchvision
from dicenas.nets.state_dicts import fill
from dicenas.ops import ConvNormAct, SeparableConv, SqueezeExcitation

__all__ = ["load_state_dict", "torchvision_keys"]

_Pairs = Iterator[tuple[str, str]]


def load_state_dict(network: Network, torchvision_state_dict: Mapping[str, Tensor]) -> None:
    """Fill a network with the weights of its torchvision counterpart.

    Args:
        network: A published network in torchvision's layout, with any number of classes:
            ``shufflenetv2(width, layout="torchvision")``, MobileNetV2 and MnasNet of any width, MobileNetV3 of width 1.
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
    if not isinstance(network, Network):
        raise TypeError(f"a network of dicenas.build takes torchvision's weights, not a {type(network).__name__}")
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


def _check_published(network: Network) -> None:
    """Blocks with other activations would take the weights and be another network."""
    family = get_backbone(network.architecture.backbone)
    assert isinstance(family, InvertedResidualBackbone)
    published = family.published().stages
    if network.architecture.stages != published:
        expected = "; ".join(", ".join(stage) for stage in published)
        raise TypeError(f"torchvision's network of the {family.name} family has the blocks {expected}")


def _mobilenetv3(network: Network) -> _Pairs:
    _check_published(network)
    head = network.head
    assert isinstance(head, HiddenClassifier)
    yield from _conv_norm(network.stem, "stem", "features.0.0", "features.0.1")
    number = 0
    for number, (own, _, _, block) in enumerate(_blocks(network), 1):
        assert isinstance(block, InvertedResidual)
        assert isinstance(block.op, SeparableConv)
        layers = [("expand", block.expand), ("op.depthwise", block.op.depthwise), ("op.se", block.op.se)]
        layers = [(name, layer) for name, layer in layers if not isinstance(layer, nn.Identity)]
        for position, (name, layer) in enumerate([*layers, ("op.pointwise", block.op.pointwise)]):
            theirs = f"features.{number}.block.{position}"
            if isinstance(layer, SqueezeExcitation):
                yield from _tensors(layer.reduce, f"{own}.{name}.reduce", f"{theirs}.fc1")
                yield from _tensors(layer.expand, f"{own}.{name}.expand", f"{theirs}.fc2")
            else:
                yield from _conv_norm(layer, f"{own}.{name}", f"{theirs}.0", f"{theirs}.1")
    yield from _conv_norm(head.conv, "head.conv", f"features.{number + 1}.0", f"features.{number + 1}.1")
    yield from _tensors(head.hidden, "head.hidden", "classifier.0")
    yield from _tensors(head.classifier, "head.classifier", "classifier.3")


def _mnasnet(network: Network) -> _Pairs:
    _check_published(network)
    head = network.head
    assert isinstance(head, LinearClassifier)
    yield from _conv_norm(network.stem, "stem", "layers.0", "layers.1")
    for own, stage, position, block in _blocks(network):
        assert isinstance(block, InvertedResidual)
        if stage == 0:
            yield from _separable(block.op, f"{own}.op", ("layers.3", "layers.4", "layers.6", "layers.7"))
            continue
        theirs = f"layers.{stage + 7}.{position}.layers"
        yield from _conv_norm(block.expand, f"{own}.expand", f"{theirs}.0", f"{theirs}.1")
        op_layers = (f"{theirs}.3", f"{theirs}.4", f"{theirs}.6", f"{theirs}.7")
        yield from _separable(block.op, f"{own}.op", op_layers)
    yield from _conv_norm(head.conv, "head.conv", "layers.14", "layers.15")
    yield from _tensors(head.classifier, "head.classifier", "classifier.1")


_PAIRS: dict[str, Callable[[Network], _Pairs]] = {
    ShuffleNetV2Torchvision.name: _shufflenetv2,
    MobileNetV2.name: _mobilenetv2,
    MobileNetV3Large.name: _mobilenetv3,
    MobileNetV3Small.name: _mobilenetv3,
    MnasNet.name: _mnasnet,
}
