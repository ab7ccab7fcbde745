"""Reads the weights published with DiCENet: ``state_dict`` and checkpoint files of EdgeNets' networks into ours."""

from dicenas.nets.edgenets.checkpoint import load_checkpoint, read_classification, read_segmentation, read_state_dict
from dicenas.nets.edgenets.names import upstream_keys
from dicenas.nets.edgenets.weights import load_state_dict

__all__ = [
    "load_checkpoint",
    "load_state_dict",
    "read_classification",
    "read_segmentation",
    "read_state_dict",
    "upstream_keys",
]
