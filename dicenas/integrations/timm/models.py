"""The models that timm's registry gets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    get_pretrained_cfg,
    is_model,
    register_model,
    register_notrace_module,
)
from torch import Tensor, nn

from dicenas.architecture import Architecture
from dicenas.evaluation.data import IMAGENET_MEAN, IMAGENET_STD
from dicenas.export.reading import check_weights, read_constants
from dicenas.integrations.timm.network import TimmNetwork
from dicenas.nets import build, edgenets, get_backbone, list_nets, net_architecture
from dicenas.ops import DiCE

__all__ = ["dicenas_network", "register_exported"]

_ANY_NETWORK = "dicenas_network"

#: What timm's registry knows of each model: input, normalisation, names of the first and the last layer, weights.
default_cfgs: dict[str, Any] = {}
_EXPORTED: set[str] = set()


def register_exported(folder: str | Path, name: str | None = None) -> str:
    """Register a network that ``dicenas export`` wrote as a model of timm, and return its name.

    ``pretrained=True`` takes the folder's weights. Normalisation and class names are those of its ``model.py``, which
    is read, not run; timm's data config has ImageNet's normalisation where the folder has no ``model.py``.

    Args:
        folder: The folder.
        name: Name of the model; by default the folder's, with underscores for what a name must not have.

    Raises:
        OSError: The folder holds no ``architecture.json``.
        ValueError: The name is none, or another model has it; the architecture does not fit together, or the weights
            are not those of its layers, as where normalisations were folded into convolutions.

    Example:
        >>> register_exported("my_network")
        >>> timm.create_model("my_network", pretrained=True, num_classes=5)
    """
    folder = Path(folder).resolve()
    architecture = Architecture.load(folder / "architecture.json")
    name = re.sub(r"\W", "_", folder.name) if name is None else name
    if not name.isidentifier():
        raise ValueError(f"{name!r} is no name for a model: letters, digits and underscores, no digit first")
    if (is_model(name) or name in globals()) and name not in _EXPORTED:
        raise ValueError(f"the name {name!r} is taken; give the model another one")
    weights = folder / "model.safetensors"
    if weights.is_file():
        check_weights(weights, architecture)
    told = read_constants(folder / "model.py")
    config = {
        "file": str(weights) if weights.is_file() else None,
        "mean": told.get("MEAN", IMAGENET_MEAN),
        "std": told.get("STD", IMAGENET_STD),
        "label_names": told.get("CLASS_NAMES"),
    }
    _EXPORTED.add(name)
    _register(name, architecture, config)
    return name


def _config(architecture: Architecture, given: Mapping[str, Any]) -> dict[str, Any]:
    layout = get_backbone(architecture.backbone).checked_layout(architecture)
    pooled = layout.stem.kind != "stem"
    return {
        "input_size": (architecture.in_channels, *architecture.image_size),
        "num_classes": architecture.num_classes,
        "pool_size": layout.head.in_size,
        "first_conv": "stem.0.conv" if pooled else "stem.conv",
        "classifier": "head.classifier",
        "interpolation": "bilinear",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        **given,
    }


def _register(name: str, architecture: Architecture, given: Mapping[str, Any], *, own_name: bool = False) -> None:
    """Register an architecture with timm.

    Args:
        name: Name of the model.
        architecture: The architecture.
        given: What its configuration has beside the architecture's.
        own_name: Whether a saved model can be known by this name everywhere; ``dicenas_network`` otherwise.
    """

    def entrypoint(pretrained: bool = False, pretrained_cfg: Any = None, **kwargs: Any) -> nn.Module:
        if own_name:
            return _create(name, architecture, pretrained, pretrained_cfg, **kwargs)
        if pretrained_cfg is None:
            config: Any = get_pretrained_cfg(name)
            pretrained_cfg = {**config.to_dict(), "architecture": _ANY_NETWORK}
        model = _create(_ANY_NETWORK, architecture, pretrained, pretrained_cfg, **kwargs)
        model._model_args = {"architecture": architecture.to_dict()}
        return model

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = f"Build {name}, as ``timm.create_model`` does."
    default_cfgs.update(generate_default_cfgs({name: _config(architecture, given)}))
    globals()[name] = register_model(entrypoint)


def _create(variant: str, architecture: Architecture, pretrained: bool, pretrained_cfg: Any, **kwargs: Any) -> Any:
    return build_model_with_cfg(
        _build,
        variant,
        pretrained,
        pretrained_cfg=pretrained_cfg,
        model_cfg=architecture,
        pretrained_filter_fn=_own_names,
        feature_cfg={"out_indices": range(_number_of_maps(architecture)), "flatten_sequential": True},
        **kwargs,
    )


def _build(cfg: Architecture, **kwargs: Any) -> TimmNetwork:
    return TimmNetwork(cfg, **kwargs)


def _number_of_maps(architecture: Architecture) -> int:
    with torch.device("meta"):
        return len(TimmNetwork(architecture).feature_info)


def _own_names(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Give the weights of EdgeNets' DiCENets our names; others have them."""
    assert isinstance(model, TimmNetwork)
    if not state_dict.keys().isdisjoint(model.state_dict()):
        return state_dict
    with torch.device("meta"):
        names = edgenets.upstream_keys(build(model.architecture))
    return {name: state_dict[theirs] for name, theirs in names.items() if theirs in state_dict}


def dicenas_network(
    pretrained: bool = False, pretrained_cfg: Any = None, *, architecture: Mapping[str, Any], **kwargs: Any
) -> nn.Module:
    """Build any architecture, as ``timm.create_model("dicenas_network", architecture=...)`` does.

    Args:
        pretrained: Load the weights that ``pretrained_cfg`` names.
        pretrained_cfg: timm's configuration of input and weights.
        architecture: What :meth:`dicenas.Architecture.to_dict` gives; timm saves it with the model.
        kwargs: Arguments of :class:`TimmNetwork`.

    Raises:
        ValueError: The architecture is none, or does not fit together.
    """
    built = Architecture.from_dict(architecture)
    return _create(_ANY_NETWORK, built, pretrained, pretrained_cfg or _config(built, {}), **kwargs)


# Its way through the unit depends on the size of the map: in a graph of torch.fx it is one node.
register_notrace_module(DiCE)

for _name in list_nets():
    if _name.startswith("dicenet_"):
        _register(_name, net_architecture(_name), {"paper_ids": "arXiv:1906.03516"}, own_name=True)
register_model(dicenas_network)
