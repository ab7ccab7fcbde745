"""Names of tensors: those of EdgeNets' modules beside ours.

The two differ in names alone; every shape is the same, but for the classifier of ShuffleNetV2, a point-wise convolution
there and a linear layer here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn

from dicenas.nets.backbone import Network
from dicenas.nets.heads import LinearClassifier
from dicenas.nets.segmentation import EfficientPyramidPool, SegmentationNetwork
from dicenas.nets.shufflenetv2 import GroupedClassifier, ShuffleUnit, StridedShuffleUnit
from dicenas.nets.shufflenetv2_layouts import ShuffleNetV2EdgeNets
from dicenas.ops import ConvNormAct, DiCE, EfficientPWConv, SeparableConv, StridedDiCE

__all__ = ["upstream_keys"]

_Pairs = Iterator[tuple[str, str]]


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


def _strided_shuffle_unit(module: StridedShuffleUnit, own: str, theirs: str) -> _Pairs:
    yield from _pairs(module.left, f"{own}left.", f"{theirs}layer_left.")
    for position, child in enumerate(module.right):
        yield from _pairs(child, f"{own}right.{position}.", f"{theirs}layer_right.{position}.")


def _separable(module: SeparableConv, own: str, theirs: str) -> _Pairs:
    if not isinstance(module.se, nn.Identity):
        raise TypeError("EdgeNets has no counterpart of a SeparableConv with squeeze-and-excitation")
    depthwise, theirs = module.depthwise, f"{theirs}dwise_layer."
    yield from _tensors(depthwise.conv, f"{own}depthwise.conv.", f"{theirs}0.cb.0.")
    yield from _tensors(depthwise.norm, f"{own}depthwise.norm.", f"{theirs}0.cb.1.")
    yield from _conv_norm_act(module.pointwise, f"{own}pointwise.", f"{theirs}1.")


def _network(module: Network, own: str, theirs: str) -> _Pairs:
    head = module.head
    if module.architecture.backbone == ShuffleNetV2EdgeNets.name and isinstance(head, LinearClassifier):
        yield from _encoder(module.stem, module.stages, own, theirs)
        last = len(module.architecture.stages[-1])  # EdgeNets' last stage ends in the head's convolution
        yield from _conv_norm_act(head.conv, f"{own}head.conv.", f"{theirs}level5.{last}.")
        yield from _tensors(head.classifier, f"{own}head.classifier.", f"{theirs}classifier.")
        return
    if not isinstance(head, GroupedClassifier) or not isinstance(module.stem, nn.Sequential):
        raise TypeError(f"EdgeNets has no counterpart of a {module.architecture.backbone} network")
    yield from _encoder(module.stem, module.stages, own, theirs)
    yield f"{own}head.expand.weight", f"{theirs}classifier.0.weight"
    yield from _tensors(head.classifier, f"{own}head.classifier.", f"{theirs}classifier.2.")


def _encoder(stem: nn.Module, stages: nn.Module, own: str, theirs: str) -> _Pairs:
    conv, _ = stem.children()
    yield from _pairs(conv, f"{own}stem.0.", f"{theirs}level1.")
    for number, stage in enumerate(stages.children()):
        for position, unit in enumerate(stage.children()):
            yield from _pairs(unit, f"{own}stages.{number}.{position}.", f"{theirs}level{number + 3}.{position}.")


def _efficient_pw_conv(module: EfficientPWConv, own: str, theirs: str) -> _Pairs:
    yield f"{own}gate.weight", f"{theirs}wt_layer.1.weight"
    yield from _conv_norm_act(module.conv, f"{own}conv.", f"{theirs}expansion_layer.")


def _pyramid_pool(module: EfficientPyramidPool, own: str, theirs: str) -> _Pairs:
    yield from _conv_norm_act(module.project, f"{own}project.", f"{theirs}projection_layer.")
    yield from _tensors(module.branches, f"{own}branches.", f"{theirs}stages.")
    yield from _tensors(module.norm, f"{own}norm.", f"{theirs}merge_layer.0.br.0.")
    yield from _tensors(module.act, f"{own}act.", f"{theirs}merge_layer.0.br.1.")
    yield from _conv_norm_act(module.merge, f"{own}merge.", f"{theirs}merge_layer.2.")
    yield from _tensors(module.expand, f"{own}expand.", f"{theirs}merge_layer.3.")
    yield from _tensors(module.final, f"{own}final.", f"{theirs}br.br.")


def _segmentation(module: SegmentationNetwork, own: str, theirs: str) -> _Pairs:
    yield from _encoder(module.stem, module.stages, own, f"{theirs}base_net.")
    yield from _pairs(module.bottom, f"{own}bottom.", f"{theirs}eff_pool_16x16.")
    # EdgeNets calls the decoder's modules by the sizes of their maps for an image of 256 x 256.
    for number, size in enumerate(("32x32", "64x64", "128x128")):
        yield from _pairs(module.laterals[number], f"{own}laterals.{number}.", f"{theirs}proj_enc_{size}.")
        yield from _tensors(module.merges[number], f"{own}merges.{number}.", f"{theirs}bu_br_{size}.")
        yield from _pairs(module.pyramids[number], f"{own}pyramids.{number}.", f"{theirs}eff_pool_{size}.")


_PAIRS: dict[type[nn.Module], Callable[..., _Pairs]] = {
    ConvNormAct: _conv_norm_act,
    DiCE: _dice,
    StridedDiCE: _strided_dice,
    SeparableConv: _separable,
    ShuffleUnit: _shuffle_unit,
    StridedShuffleUnit: _strided_shuffle_unit,
    Network: _network,
    EfficientPWConv: _efficient_pw_conv,
    EfficientPyramidPool: _pyramid_pool,
    SegmentationNetwork: _segmentation,
}
