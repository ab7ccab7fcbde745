"""Networks by name, as the command line takes them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from dicenas.architecture import Architecture
from dicenas.nets.mobilenetv1 import mobilenetv1_architecture
from dicenas.nets.mobilenetv2 import mobilenetv2_architecture
from dicenas.nets.resnet import resnet_architecture
from dicenas.nets.searched import mnasnet_architecture, mobilenetv3_architecture
from dicenas.nets.shufflenetv2 import CHANNELS, dicenet_architecture
from dicenas.nets.shufflenetv2_layouts import EDGENETS_CHANNELS, TORCHVISION_CHANNELS, shufflenetv2_architecture
from dicenas.spelling import did_you_mean

__all__ = ["list_nets", "net_architecture"]


def _percent(width: float) -> str:
    return f"{round(100 * width):03d}"


#: Each network's name, and its architecture for a number of classes and an image size.
_NETS: dict[str, Callable[..., Architecture]] = {
    **{f"dicenet_{_percent(scale)}": partial(dicenet_architecture, scale) for scale in CHANNELS},
    **{f"mobilenetv1_{_percent(w)}": partial(mobilenetv1_architecture, w) for w in (0.25, 0.5, 0.75, 1.0)},
    **{f"mobilenetv2_{_percent(w)}": partial(mobilenetv2_architecture, w) for w in (0.35, 0.5, 0.75, 1.0, 1.4)},
    **{f"mnasnet_{_percent(w)}": partial(mnasnet_architecture, w) for w in (0.5, 0.75, 1.0, 1.3)},
    **{f"mobilenetv3_{variant}": partial(mobilenetv3_architecture, variant) for variant in ("large", "small")},
    # The depth-wise ResNets of DiCENet's Table 1.
    **{f"resnet_{_percent(w)}": partial(resnet_architecture, w) for w in (0.16, 0.25, 0.37)},
    # torchvision's names are its own.
    **{
        f"shufflenetv2_x{w}".replace(".", "_"): partial(shufflenetv2_architecture, w, "torchvision")
        for w in TORCHVISION_CHANNELS
    },
    **{
        f"shufflenetv2_edgenets_{_percent(w)}": partial(shufflenetv2_architecture, w, "edgenets")
        for w in EDGENETS_CHANNELS
    },
}


def list_nets() -> list[str]:
    """Return the names of the networks that :func:`net_architecture` knows, sorted."""
    return sorted(_NETS)


def net_architecture(name: str, num_classes: int = 1000, image_size: int | tuple[int, int] = 224) -> Architecture:
    """Return the architecture of a published network, such as ``"dicenet_100"``.

    Raises:
        ValueError: There is no such network; the message names the nearest one.
    """
    if name not in _NETS:
        known = list_nets()
        raise ValueError(f"unknown network {name!r}{did_you_mean(name, known)} (known: {', '.join(known)})")
    return _NETS[name](num_classes=num_classes, image_size=image_size)
