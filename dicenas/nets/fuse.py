"""Folding and fusing a network for inference."""

from __future__ import annotations

import copy
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dicenas.nets.backbone import Network
from dicenas.nets.fused import (
    LINEAR_BY_PIECES,
    FusedClassifier,
    FusedDepthwise,
    FusedDiCE,
    FusedPointwise,
    affine,
    slopes,
)
from dicenas.nets.fused_shuffle import FusedShuffleStages, FusedShuffleUnits
from dicenas.nets.shufflenetv2 import GroupedClassifier
from dicenas.ops import ChannelShuffle, ConvNormAct, DiCE, PooledShuffleUnit, ShapedConvNormAct, StridedDiCE
from dicenas.ops.mixed import MixedSeparableConv

__all__ = ["fuse_for_inference"]


def _can_fuse(unit: DiCE) -> bool:
    fuse = unit.dim_fuse
    if not isinstance(fuse.local, ConvNormAct) or not isinstance(fuse.spatial, ConvNormAct):
        return False  # folded before, and kept for its activations
    activations = (unit.act, fuse.local.act, fuse.spatial.act)
    return isinstance(fuse.shuffle, ChannelShuffle) and all(isinstance(act, LINEAR_BY_PIECES) for act in activations)


def _replacement(module: nn.Module) -> nn.Module | None:
    if isinstance(module, DiCE) and _can_fuse(module):
        return FusedDiCE(module)
    if isinstance(module, GroupedClassifier) and FusedClassifier.fits(module):
        return FusedClassifier(module)
    if isinstance(module, ShapedConvNormAct):
        return nn.Sequential(fuse_conv_bn_eval(module.conv, module.norm), module.act)
    if isinstance(module, ConvNormAct):
        conv = module.conv
        plain = conv.kernel_size == conv.stride == (1, 1) and conv.groups == 1
        if plain and isinstance(module.act, LINEAR_BY_PIECES):
            return FusedPointwise(module)
        return nn.Sequential(fuse_conv_bn_eval(module.conv, module.norm), module.act)
    return None


def _fold_mixed(unit: MixedSeparableConv, norm: nn.BatchNorm2d) -> None:
    """Fold the normalisation behind mixed kernels, each convolution its channels."""
    scales, shifts = (values.split(unit.depthwise.split) for values in affine(norm))
    for conv, scale, shift in zip(unit.depthwise.convs, scales, shifts, strict=True):
        assert isinstance(conv, nn.Conv2d)
        conv.weight.data = (conv.weight.detach().double() * scale[:, None, None, None]).to(conv.weight.dtype)
        conv.bias = nn.Parameter(shift.to(conv.weight.dtype))
    unit.norm = nn.Identity()


def _pool_before_activating(layers: nn.Sequential) -> None:
    """Move activations that never fall behind the max pooling that follows, which leaves a quarter of the values."""
    for i, (layer, pool) in enumerate(pairwise(layers)):
        if not isinstance(layer, ConvNormAct) or type(pool) is not nn.MaxPool2d:
            continue
        if layer.conv.weight.is_meta or not isinstance(layer.act, LINEAR_BY_PIECES):
            continue
        if (slopes(layer.act, layer.conv.out_channels) >= 0).all():
            layers[i + 1] = nn.Sequential(pool, layer.act)
            layer.act = nn.Identity()


def _fold_downsampling(unit: StridedDiCE | PooledShuffleUnit) -> None:
    """Fold the convolution that the left branch begins with into what a kernel takes together with the pooling."""
    if type(unit.left) is nn.Sequential and len(unit.left) and FusedDepthwise.fits(unit.left[0]):
        unit.left[0] = FusedDepthwise(unit.left[0])  # type: ignore[arg-type]


def _fuse(module: nn.Module) -> nn.Module:
    if isinstance(module, FusedShuffleUnits | FusedShuffleStages):
        return module
    replacement = _replacement(module)
    if replacement is not None:
        return replacement
    if isinstance(module, Network) and type(module.stem) is nn.Sequential:
        _pool_before_activating(module.stem)  # elsewhere somebody may take the map between the two
    if isinstance(module, MixedSeparableConv) and isinstance(module.norm, nn.BatchNorm2d):
        _fold_mixed(module, module.norm)
    if isinstance(module, StridedDiCE | PooledShuffleUnit):
        _fold_downsampling(module)
    for name, child in module.named_children():
        setattr(module, name, _fuse(child))
    joined = None
    if type(module) is nn.Sequential:
        joined = FusedShuffleStages.of(module) or FusedShuffleUnits.of(module)
    if joined is not None:
        return joined
    for name, child in module.named_children():
        setattr(module, name, FusedShuffleUnits.of([child]) or child)
    return module


def fuse_for_inference(net: nn.Module) -> nn.Module:
    """Return a copy of a network for inference, with its normalisations folded and its DiCE units fused.

    The outputs are those of ``net.eval()``, up to rounding: a few 1e-6 of the largest value in float32. Every
    network that holds DiCE units will do; what is not known here is left as it is. ``torch.compile`` of the result
    is faster still.

    Args:
        net: Any network. It is left as it is, in the mode in which it is.
    """
    fused = _fuse(copy.deepcopy(net).eval())
    fused = FusedShuffleUnits.of([fused]) or fused
    for parameter in fused.parameters():
        parameter.requires_grad_(False)
    return fused.eval()
