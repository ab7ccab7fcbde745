"""The file that a supernet's training is taken up from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from dicenas.files import CHECKSUM, atomic_write_bytes

__all__ = ["SCHEMA_VERSION", "TrainingState", "read_checkpoint", "write_checkpoint"]

#: Version of the file's form; raised when a field is added, renamed or changes its meaning.
SCHEMA_VERSION = 2
_HEADER = "dicenas_supernet"


@dataclass(frozen=True)
class TrainingState:
    """A training between two steps.

    Attributes:
        step: Steps done.
        weights: The shared weights.
        momenta: Their momenta.
        order: Positions of the images of the current epoch.
        generator: State of the generator of orders and augmentations.
        scaler: State of the gradients' scaling.
    """

    step: int
    weights: Mapping[str, Tensor]
    momenta: Mapping[str, Tensor]
    order: Tensor
    generator: Tensor
    scaler: Mapping[str, Any] = field(default_factory=dict)


def write_checkpoint(path: Path, training: Mapping[str, Any], state: TrainingState) -> None:
    """Write the state of a training: the whole file appears, or the previous one stays.

    Args:
        path: The file.
        training: What is trained and how, as plain data: see :func:`read_checkpoint`.
        state: The state.
    """
    from safetensors.torch import save

    tensors = {
        **{f"weights.{name}": tensor for name, tensor in state.weights.items()},
        **{f"momenta.{name}": tensor for name, tensor in state.momenta.items()},
        "order": state.order,
        "generator": state.generator,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "training": training,
        "step": state.step,
        "scaler": state.scaler,
    }
    header[CHECKSUM] = _content_digest(header, tensors)
    atomic_write_bytes(path, save(tensors, {_HEADER: json.dumps(header)}))


def read_checkpoint(path: Path, training: Mapping[str, Any]) -> TrainingState:
    """Read the state of a training.

    Args:
        path: The file.
        training: What is trained and how; the file has to agree.

    Raises:
        ValueError: The file is truncated or damaged, no checkpoint, or that of another training; the message says what
            differs.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            if header["schema_version"] != SCHEMA_VERSION:
                raise ValueError(f"schema version {header['schema_version']}, this dicenas reads {SCHEMA_VERSION}")
            _check_training(header["training"], training)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
            step, scaler, kept = header["step"], header["scaler"], header.pop(CHECKSUM)
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is no whole checkpoint of a supernet ({error}); delete it to train the supernet anew"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if _content_digest(header, tensors) != kept:
        raise ValueError(f"{path} is damaged: its checksum differs; delete it to train the supernet anew")
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "momenta": {}, "": {}}
    for name, tensor in tensors.items():
        kind, _, rest = name.rpartition(".")
        parts[kind][rest] = tensor
    alone = parts[""]
    return TrainingState(step, parts["weights"], parts["momenta"], alone["order"], alone["generator"], scaler)


def _check_training(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    expected = json.loads(json.dumps(expected))  # lists for tuples, as in the file
    differing = []
    for part in expected:
        if isinstance(expected[part], dict):
            names = {**found[part], **expected[part]}
            pairs = {f"{part}.{name}": (found[part].get(name), expected[part].get(name)) for name in names}
        else:
            pairs = {part: (found[part], expected[part])}
        differing += [f"{name} {given!r}, not {wanted!r}" for name, (given, wanted) in pairs.items() if given != wanted]
    if differing:
        raise ValueError(
            f"the checkpoint is that of another training: {'; '.join(differing)}; delete it to train the supernet "
            "anew, or give another folder"
        )


def _content_digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(header).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
