"""Networks by name, as the command line takes them."""

from __future__ import annotations

from dicenas.architecture import Architecture
from dicenas.nets.mobilenetv2 import mobilenetv2_architecture
from dicenas.nets.shufflenetv2 import CHANNELS, dicenet_architecture
from dicenas.spelling import did_you_mean

__all__ = ["list_nets", "net_architecture"]

_DICENETS = {f"dicenet_{round(100 * scale):03d}": scale for scale in CHANNELS}
_MOBILENETS = {f"mobilenetv2_{round(100 * width):03d}": width for width in (0.5, 0.75, 1.0, 1.4)}


def list_nets() -> list[str]:
    """Return the names of the networks that :func:`net_architecture` knows, sorted."""
    return sorted([*_DICENETS, *_MOBILENETS])


def net_architecture(name: str, num_classes: int = 1000, image_size: int | tuple[int, int] = 224) -> Architecture:
    """Return the architecture of a published network, such as ``"dicenet_100"``.

    Raises:
        ValueError: There is no such network; the message names the nearest one.
    """
    if name in _DICENETS:
        return dicenet_architecture(_DICENETS[name], num_classes, image_size)
    if name in _MOBILENETS:
        return mobilenetv2_architecture(_MOBILENETS[name], num_classes, image_size)
    known = list_nets()
    raise ValueError(f"unknown network {name!r}{did_you_mean(name, known)} (known: {', '.join(known)})")
