"""Published networks with the weights of a checkpoint file, whoever published it."""

from __future__ import annotations

from pathlib import Path

import torch

from dicenas.architecture import Architecture
from dicenas.nets import edgenets, torchvision_weights
from dicenas.nets.backbone import Network, build
from dicenas.nets.shufflenetv2 import ShuffleNetV2
from dicenas.nets.shufflenetv2_layouts import ShuffleNetV2EdgeNets
from dicenas.nets.state_dicts import fill

__all__ = ["read_network"]


def read_network(path: str | Path, architecture: Architecture) -> Network:
    """Build a published network with the weights of a checkpoint file.

    DiCENet and ``shufflenetv2_edgenets`` take EdgeNets' files, all other networks torchvision's. The number of classes
    is the file's, and so is the native size of a DiCENet; both may differ from the architecture's.

    Args:
        path: What :func:`dicenas.nets.edgenets.read_state_dict` takes: a file of ``torch.save`` or ``.safetensors``.
        architecture: The network that the file should hold.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It holds no such network, is damaged, or names code; or nobody published weights of the network.
            The message names the file and the first keys concerned.
    """
    if architecture.backbone == ShuffleNetV2.name:
        network = edgenets.read_classification(path)
        held = network.architecture
        if held != architecture.replace(image_size=held.image_size, num_classes=held.num_classes):
            raise ValueError(f"{path} holds DiCENet of scale {held.width:g}, which is not the network asked for")
        return network
    with torch.device("meta"):
        expected = build(architecture)
    try:
        if architecture.backbone == ShuffleNetV2EdgeNets.name:
            keys = edgenets.upstream_keys(expected)
        else:
            keys = torchvision_weights.torchvision_keys(expected)
    except TypeError as error:
        raise ValueError(f"there are no published weights of this network: {error}") from error
    state = edgenets.read_state_dict(path)
    last = keys[list(expected.state_dict())[-1]]  # the classifier's bias
    if last in state and state[last].dim() == 1 and len(state[last]) > 0:
        architecture = architecture.replace(num_classes=len(state[last]))
    network = build(architecture)
    try:
        fill(network, keys, state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return network
