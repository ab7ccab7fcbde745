"""Checkpoints of trainings: written whole, read only if whole, and only by the training that wrote them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dicenas.files import atomic_write_bytes

__all__ = ["read_checkpoint", "require_same", "write_checkpoint"]

_MAGIC = b"dicenas checkpoint 1 sha256 "


def write_checkpoint(path: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write a checkpoint: the whole file appears, or the previous one stays.

    Args:
        path: The file.
        identity: What training this is, plain data; see :func:`require_same`.
        state: Tensors and plain data.
    """
    buffer = io.BytesIO()
    torch.save({"identity": json.dumps(identity), "state": dict(state)}, buffer)
    payload = buffer.getvalue()
    atomic_write_bytes(path, _MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what :func:`write_checkpoint` wrote.

    Returns:
        The identity and the state, tensors on the CPU.

    Raises:
        ValueError: The file is no checkpoint of a training, or is torn or damaged.
    """
    head, _, payload = path.read_bytes().partition(b"\n")
    if not head.startswith(_MAGIC):
        raise ValueError(f"{path} is no checkpoint of a training; remove it, or train into another folder")
    if head.removeprefix(_MAGIC).decode(errors="replace") != hashlib.sha256(payload).hexdigest():
        raise ValueError(f"{path} is torn or damaged (its checksum is another); remove it to train from the start")
    content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    return json.loads(content["identity"]), content["state"]


def require_same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Check that a checkpoint is of the training that is asked for.

    Args:
        path: The checkpoint.
        found: Its identity: plain data by subject, such as ``recipe``.
        wanted: The identity of the training asked for.

    Raises:
        ValueError: They differ; the message has a line for each difference.
    """
    if differences := list(_differences("", found, json.loads(json.dumps(wanted)))):
        lines = (f"  {name}: {there} there, {here} asked for" for name, there, here in differences)
        raise ValueError("\n".join([f"{path} is of another training; train into another folder, or as there:", *lines]))


def _differences(name: str, found: Any, wanted: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = list(dict.fromkeys([*found, *wanted]))
        parts = [_differences(f"{name}.{key}" if name else key, found.get(key), wanted.get(key)) for key in keys]
        return [difference for part in parts for difference in part]
    return [] if found == wanted else [(name, found, wanted)]
