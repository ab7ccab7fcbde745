"""Writes the folder of an exported network: whole and verified, or not at all."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from dicenas.export.card import model_card
from dicenas.export.model_source import Normalization, model_source
from dicenas.export.verify import Check, verify
from dicenas.nets import Network, architecture_cost
from dicenas.spelling import did_you_mean

__all__ = ["FORMATS", "ExportResult", "export_network"]

#: Formats that a network can be exported in, with the name of the file.
FORMATS = {"py": "model.py", "safetensors": "model.safetensors"}

_MARK = "architecture.json"  # a folder with this file is an exported network


@dataclass(frozen=True)
class ExportResult:
    """An exported network.

    Attributes:
        path: The folder.
        files: The files in it: ``model.py``, ``model.safetensors``, ``architecture.json``, ``metrics.json``,
            ``README.md``, as far as asked for.
        checks: The comparisons with the trained network, all passed.
    """

    path: Path
    files: tuple[Path, ...]
    checks: tuple[Check, ...]


def export_network(
    network: Network,
    out_dir: str | Path,
    formats: Sequence[str] = ("py", "safetensors"),
    *,
    metrics: Mapping[str, float | str] | None = None,
    class_names: Sequence[str] | None = None,
    normalization: Normalization | None = None,
    force: bool = False,
) -> ExportResult:
    """Write a trained network as files that need nothing of this package, and verify them.

    ``model.py`` is readable source for this one network, whose ``build()`` returns an ``nn.Module`` with the same
    ``state_dict`` keys; ``model.safetensors`` holds the weights. Both are loaded in a fresh process without dicenas
    and compared with the network before the folder appears.

    Args:
        network: The trained network, float32; it is not changed.
        out_dir: The folder to write. It appears whole or not at all.
        formats: Keys of :data:`FORMATS`.
        metrics: What is known of the network, units in the names. ``macs`` (at the native size) and ``params`` are
            added where they are not given.
        class_names: Names of the classes in the order of the logits.
        normalization: Mean and standard deviation of the input's channels, for images in 0 to 1.
        force: Replace an exported network in ``out_dir``, once the new one is verified.

    Raises:
        FileExistsError: ``out_dir`` exists, and ``force`` is not set or it holds no exported network.
        ValueError: An argument does not fit, or an op's source cannot stand alone.
        ExportVerificationError: The exported network differs from the trained one.
    """
    out_dir = Path(out_dir)
    _check_arguments(network, formats, class_names, normalization)
    _check_folder(out_dir, force)
    architecture = network.architecture
    cost = architecture_cost(architecture)
    all_metrics = {"macs": cost.macs, "params": cost.params, **(metrics or {})}
    metrics_text = json.dumps(all_metrics, indent=2, allow_nan=False) + "\n"
    source = model_source(
        network,
        weights_name=FORMATS["safetensors"] if "safetensors" in formats else None,
        class_names=class_names,
        normalization=normalization,
    )
    with _new_folder(out_dir) as folder:
        paths = {name: folder / file for name, file in FORMATS.items()}
        paths["py"].write_text(source, encoding="utf-8")
        _write_weights(network, paths["safetensors"])
        checks = verify(network, paths["py"], paths["safetensors"])
        for name, path in paths.items():
            if name not in formats:
                path.unlink()
        architecture.save(folder / _MARK)
        (folder / "metrics.json").write_text(metrics_text, encoding="utf-8")
        card = model_card(architecture, formats, all_metrics, checks, class_names, normalization)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return ExportResult(out_dir, tuple(sorted(out_dir.iterdir())), checks)


def _check_arguments(
    network: Network,
    formats: Sequence[str],
    class_names: Sequence[str] | None,
    normalization: Normalization | None,
) -> None:
    if not isinstance(network, Network):
        raise TypeError(f"expected a network that dicenas.nets.build made, got {type(network).__name__}")
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"unknown format {name!r}{did_you_mean(name, FORMATS)} (known: {', '.join(FORMATS)})")
    if not formats:
        raise ValueError(f"no format given; choose from {', '.join(FORMATS)}")
    architecture = network.architecture
    if class_names is not None and len(class_names) != architecture.num_classes:
        raise ValueError(f"{len(class_names)} class names for a network of {architecture.num_classes} classes")
    if normalization is not None and any(len(values) != architecture.in_channels for values in normalization):
        raise ValueError(f"normalization {normalization} should be mean and std of {architecture.in_channels} channels")
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}; convert the network with .float() before it is exported")


def _check_folder(out_dir: Path, force: bool) -> None:
    if not out_dir.exists():
        return
    if not force:
        raise FileExistsError(f"{out_dir} exists; choose another folder, or force to replace it")
    if not (out_dir / _MARK).is_file():
        raise FileExistsError(
            f"{out_dir} is no exported network (no {_MARK} in it) and is not replaced; remove it first"
        )


@contextmanager
def _new_folder(out_dir: Path) -> Iterator[Path]:
    """Give a folder beside ``out_dir`` that takes its place when all went well, and vanishes when not."""
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    suffix = uuid.uuid4().hex[:8]
    folder = out_dir.with_name(f".{out_dir.name}.{suffix}")
    replaced = out_dir.with_name(f".{out_dir.name}.{suffix}.replaced")
    folder.mkdir()
    try:
        yield folder
        if out_dir.exists():
            out_dir.rename(replaced)
        try:
            folder.rename(out_dir)
        except OSError:
            if replaced.exists():
                replaced.rename(out_dir)
            raise
    finally:
        for path in (folder, replaced):
            if path.exists():
                shutil.rmtree(path)


def _write_weights(network: Network, path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, path, metadata={"format": "pt", "architecture": network.architecture.hash})
