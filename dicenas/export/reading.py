"""Reads the folder of an exported network back, without running what is in it."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dicenas.architecture import Architecture
from dicenas.export.formats import FORMATS, FRESH
from dicenas.export.model_source import Normalization
from dicenas.files import check_sum
from dicenas.nets import Network, build

__all__ = ["ExportedNetwork", "check_weights", "read_constants", "read_exported"]


@dataclass(frozen=True)
class ExportedNetwork:
    """A network that was exported before, and what its folder tells.

    Attributes:
        network: The network with its weights.
        metrics: What is known of it, units in the names.
        class_names: Names of the classes in the order of the logits, where ``model.py`` is there to name them.
        normalization: Mean and standard deviation of the input's channels, where ``model.py`` is there to say them.
        trained: Whether its weights were trained.
    """

    network: Network
    metrics: dict[str, float | str]
    class_names: tuple[str, ...] | None
    normalization: Normalization | None
    trained: bool


def read_exported(folder: str | Path) -> ExportedNetwork:
    """Build the network that a folder of :func:`dicenas.export.export_network` holds, as float32.

    Args:
        folder: The folder, with ``model.safetensors`` in it.

    Raises:
        OSError: A file is missing.
        ValueError: A file is damaged, or the weights are not those of the architecture's layers, as where
            normalisations were folded into convolutions.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    folder = Path(folder)
    architecture = Architecture.load(folder / "architecture.json")
    path, metrics_path = folder / FORMATS["safetensors"], folder / "metrics.json"
    check_sum(metrics_path)
    told = read_constants(folder / FORMATS["py"])
    try:
        check_weights(path, architecture)
        network = build(architecture)
        network.load_state_dict(load_file(path))
        with safe_open(path, "pt") as file:
            trained = not FRESH.items() <= (file.metadata() or {}).items()
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} does not hold the weights of its architecture: {error}") from error
    names = told.get("CLASS_NAMES")
    return ExportedNetwork(
        network,
        json.loads(metrics_path.read_text(encoding="utf-8")),
        None if names is None else tuple(names),
        (told["MEAN"], told["STD"]) if {"MEAN", "STD"} <= told.keys() else None,
        trained,
    )


def check_weights(path: Path, architecture: Architecture) -> None:
    """Check that a file of weights is whole, and has those of an architecture's layers, by their names.

    Raises:
        OSError: There is no such file.
        ValueError: It is damaged, or has others.
    """
    from safetensors import safe_open

    check_sum(path)
    with torch.device("meta"):
        expected = build(architecture).state_dict().keys()
    with safe_open(path, "pt") as file:
        found = set(file.keys())
    if found != expected:
        different = sorted(found ^ expected)[0]
        raise ValueError(
            f"{path} does not hold the weights of its architecture ({different} is not in both); a network whose "
            "normalisations were folded is to be exported once more without that"
        )


def read_constants(path: Path) -> dict[str, Any]:
    """Return ``MEAN``, ``STD`` and ``CLASS_NAMES`` of an exported ``model.py``, those that it has.

    Raises:
        ValueError: The file is damaged.
    """
    if not path.is_file():
        return {}
    check_sum(path)
    found: dict[str, Any] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="MEAN" | "STD" | "CLASS_NAMES" as name)], value=value):
                found[str(name)] = ast.literal_eval(value)
    return found
