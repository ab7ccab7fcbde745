"""Ops: the DiCE unit and the registry of candidate ops. Needs torch alone."""

from dicenas.ops.ablations import JoinedDimConv
from dicenas.ops.bottleneck import Bottleneck, InvertedBottleneck, ShuffleBottleneck
from dicenas.ops.convolutions import ShapedConvNormAct
from dicenas.ops.cost import Cost, conv_cost, conv_norm_act_cost, norm_act_cost
from dicenas.ops.dice import DiCE, DimFuse, EfficientPWConv, PooledShuffleUnit, StridedDiCE
from dicenas.ops.dim_conv import DimConv, dim_conv, dim_conv_reference
from dicenas.ops.installed import load_installed_ops as _load_installed_ops
from dicenas.ops.layers import ChannelShuffle, ConvNormAct, SqueezeExcitation, make_activation, make_divisible
from dicenas.ops.mixed import MixedConv, MixedSeparableConv
from dicenas.ops.registry import (
    CandidateArguments,
    Downsample,
    Entry,
    OpInfo,
    build_candidate,
    build_op,
    candidate_cost,
    expand_candidates,
    from_arguments,
    get_op,
    list_ops,
    parse_candidate,
    register_op,
)
from dicenas.ops.separable import SeparableConv
from dicenas.ops.slicing import Positions, branch_slices, prefixes, row_positions, special_slices

from dicenas.ops import candidates as _candidates  # noqa: F401  isort: skip  (registers the ops)

__all__ = [
    "Bottleneck",
    "CandidateArguments",
    "ChannelShuffle",
    "ConvNormAct",
    "Cost",
    "DiCE",
    "DimConv",
    "DimFuse",
    "Downsample",
    "EfficientPWConv",
    "Entry",
    "InvertedBottleneck",
    "JoinedDimConv",
    "MixedConv",
    "MixedSeparableConv",
    "OpInfo",
    "PooledShuffleUnit",
    "Positions",
    "SeparableConv",
    "ShapedConvNormAct",
    "ShuffleBottleneck",
    "SqueezeExcitation",
    "StridedDiCE",
    "branch_slices",
    "build_candidate",
    "build_op",
    "candidate_cost",
    "conv_cost",
    "conv_norm_act_cost",
    "dim_conv",
    "dim_conv_reference",
    "expand_candidates",
    "from_arguments",
    "get_op",
    "list_ops",
    "make_activation",
    "make_divisible",
    "norm_act_cost",
    "parse_candidate",
    "prefixes",
    "register_op",
    "row_positions",
    "special_slices",
]

# Last: the modules that are loaded import this one.
_load_installed_ops()
