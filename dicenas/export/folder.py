"""Writes the folder of an exported network: whole and verified, or not at all."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dicenas.export.card import CardFacts, model_card
from dicenas.export.folding import fold_weights
from dicenas.export.formats import DTYPES, FORMATS, FRESH, check_formats, tolerance
from dicenas.export.model_source import Normalization, network_source
from dicenas.export.programs import program_of, standalone, write_onnx, write_pt2, write_torchscript
from dicenas.export.timm_source import timm_config, timm_source, timm_variant
from dicenas.export.verify import Check, Verification, takes_any_size, verify
from dicenas.files import sync_folder, write_sums
from dicenas.nets import Network, architecture_cost

__all__ = ["ExportResult", "export_network"]

# A folder with these files is an exported network; that of a trial has the first two.
_ARCHITECTURE, _METRICS, _CARD = _MARKS = ("architecture.json", "metrics.json", "README.md")
_PROGRAMS = frozenset({"onnx", "pt2", "torchscript"})


@dataclass(frozen=True)
class ExportResult:
    """An exported network.

    Attributes:
        path: The folder.
        files: The files in it: those of the formats, ``architecture.json``, ``metrics.json``, ``README.md``, and
            ``SHA256SUMS``, which ``sha256sum --check`` reads.
        verification: The comparisons with the trained network, all passed, and the latency of each runtime.
    """

    path: Path
    files: tuple[Path, ...]
    verification: Verification

    @property
    def checks(self) -> tuple[Check, ...]:
        """The comparisons with the trained network, all passed."""
        return self.verification.checks


def export_network(
    network: Network,
    out_dir: str | Path,
    formats: Sequence[str] = ("py", "safetensors"),
    *,
    metrics: Mapping[str, float | str] | None = None,
    class_names: Sequence[str] | None = None,
    normalization: Normalization | None = None,
    fold_bn: bool = False,
    dtype: str = "float32",
    image_size: int | tuple[int, int] | None = None,
    drawing: str | None = None,
    trained: bool = True,
    force: bool = False,
) -> ExportResult:
    """Write a trained network as files that need nothing of this package, and verify them.

    ``model.py`` is readable source for this one network, whose ``build()`` returns an ``nn.Module`` with the same
    ``state_dict`` keys; ``model.safetensors`` holds the weights. ``model.onnx``, ``model.pt2`` and ``model.ts`` are
    programs with the weights inside, for batches of any size, and for images of any size too where the network has no
    DiCE units. ``timm/`` is a folder that ``timm.create_model`` reads. All are loaded in a fresh process without
    dicenas and compared with the network before the folder appears.

    Args:
        network: The network, float32; it is not changed.
        out_dir: The folder to write. It appears whole or not at all.
        formats: Keys of :data:`FORMATS`.
        metrics: What is known of the network, units in the names. ``macs`` (at the native size) and ``params`` are
            added where they are not given.
        class_names: Names of the classes in the order of the logits.
        normalization: Mean and standard deviation of the input's channels, for images in 0 to 1.
        fold_bn: Fold the normalisations behind convolutions into these, for inference: the ``state_dict`` keys are
            then others.
        dtype: Number type of weights, images and logits, one of :data:`DTYPES`.
        image_size: Size of the images that programs take where a network has DiCE units, and of those that verify it,
            an int or ``(H, W)``; by default the native one. A unit resizes the maps of other sizes.
        drawing: The architecture as an SVG image, for the model card.
        trained: Whether its weights were trained; of fresh ones the model card says so, and those who read it back.
        force: Replace an exported network in ``out_dir``, once the new one is verified.

    Raises:
        FileExistsError: ``out_dir`` exists, and ``force`` is not set or it holds no exported network.
        ValueError: An argument does not fit, a package is missing, or an op's source cannot stand alone.
        ExportVerificationError: The exported network differs from the trained one.
    """
    out_dir = Path(out_dir)
    _check_arguments(network, formats, class_names, normalization, dtype)
    _check_folder(out_dir, force)
    architecture = network.architecture
    size = architecture.image_size
    if image_size is not None:
        size = architecture.replace(image_size=image_size).image_size  # checks it
    cost = architecture_cost(architecture)
    all_metrics = {"macs": cost.macs, "params": cost.params, **(metrics or {})}
    metrics_text = json.dumps(all_metrics, indent=2, allow_nan=False) + "\n"
    source = network_source(
        network,
        weights_name=FORMATS["safetensors"] if "safetensors" in formats else None,
        class_names=class_names,
        normalization=normalization,
        dtype=DTYPES[dtype],
        fold_norms=fold_bn,
    )
    weights = _weights(network, source.folded, DTYPES[dtype])
    with _new_folder(out_dir, force) as folder:
        (folder / FORMATS["py"]).write_text(source.text, encoding="utf-8")
        _write_weights(weights, architecture.hash, trained, folder / FORMATS["safetensors"])
        if not _PROGRAMS.isdisjoint(formats):
            plain = network_source(network, dtype=DTYPES[dtype], fold_norms=fold_bn, kernels=False)
            example = torch.zeros(2, architecture.in_channels, *size, dtype=DTYPES[dtype])
            _write_programs(plain.text, weights, formats, example, takes_any_size(network), folder)
        if "timm" in formats:
            _write_timm(network, normalization, class_names, fold_bn, folder)
        verification = verify(
            network,
            folder,
            formats,
            weights,
            image_size=size,
            dtype=dtype,
            tolerance=tolerance(dtype, fold_bn),
        )
        for name in ("py", "safetensors"):
            if name not in formats:
                (folder / FORMATS[name]).unlink()
        architecture.save(folder / _ARCHITECTURE)
        (folder / _METRICS).write_text(metrics_text, encoding="utf-8")
        if drawing is not None:
            (folder / "architecture.svg").write_text(drawing, encoding="utf-8")
        facts = CardFacts(
            architecture=architecture,
            formats=tuple(formats),
            metrics=all_metrics,
            verification=verification,
            class_names=class_names,
            normalization=normalization,
            dtype=dtype,
            fold_bn=fold_bn,
            any_size=takes_any_size(network),
            timm_variant=timm_variant(network),
            has_drawing=drawing is not None,
            trained=trained,
        )
        (folder / _CARD).write_text(model_card(facts), encoding="utf-8")
    files = sorted(path for path in out_dir.rglob("*") if path.is_file())
    return ExportResult(out_dir, tuple(files), verification)


def _check_arguments(
    network: Network,
    formats: Sequence[str],
    class_names: Sequence[str] | None,
    normalization: Normalization | None,
    dtype: str,
) -> None:
    if not isinstance(network, Network):
        raise TypeError(f"expected a network that dicenas.nets.build made, got {type(network).__name__}")
    check_formats(formats, dtype)
    architecture = network.architecture
    if class_names is not None and len(class_names) != architecture.num_classes:
        raise ValueError(f"{len(class_names)} class names for a network of {architecture.num_classes} classes")
    if normalization is not None and any(len(values) != architecture.in_channels for values in normalization):
        raise ValueError(f"normalization {normalization} should be mean and std of {architecture.in_channels} channels")
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}; convert the network with .float() before it is exported")


def _weights(network: Network, folded: Mapping[str, str], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the tensors of the exported network."""
    tensors = fold_weights(network, folded) if folded else network.state_dict()
    return {
        name: tensor.detach().cpu().to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in tensors.items()
    }


def _write_weights(weights: Mapping[str, Tensor], architecture_hash: str, trained: bool, path: Path) -> None:
    from safetensors.torch import save_file

    fresh = {} if trained else FRESH
    save_file(dict(weights), path, metadata={"format": "pt", "architecture": architecture_hash, **fresh})


def _write_programs(
    source: str,
    weights: Mapping[str, Tensor],
    formats: Sequence[str],
    example: Tensor,
    any_size: bool,
    folder: Path,
) -> None:
    """Write those formats that are programs."""
    with standalone(source, weights) as network:
        if not {"onnx", "pt2"}.isdisjoint(formats):
            program = program_of(network, example, any_size)
            if "pt2" in formats:
                write_pt2(program, folder / FORMATS["pt2"])
            if "onnx" in formats:
                write_onnx(program, example, any_size, folder / FORMATS["onnx"])
        if "torchscript" in formats:
            write_torchscript(network, example, folder / FORMATS["torchscript"])


def _write_timm(
    network: Network,
    normalization: Normalization | None,
    class_names: Sequence[str] | None,
    fold_bn: bool,
    folder: Path,
) -> None:
    path = folder / FORMATS["timm"]
    path.parent.mkdir()
    config = timm_config(network, normalization, class_names)
    path.write_text(timm_source(network, config, fold_norms=fold_bn), encoding="utf-8")
    (path.parent / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(folder / FORMATS["safetensors"], path.parent / "model.safetensors")


def _check_folder(out_dir: Path, force: bool) -> None:
    if not out_dir.exists():
        return
    if not force:
        raise FileExistsError(f"{out_dir} exists; choose another folder, or force to replace it")
    if missing := [name for name in _MARKS if not (out_dir / name).is_file()]:
        raise FileExistsError(
            f"{out_dir} is no exported network (no {' and no '.join(missing)} in it) and is not replaced; "
            "remove it first"
        )


@contextmanager
def _new_folder(out_dir: Path, force: bool) -> Iterator[Path]:
    """Give a folder beside ``out_dir`` that takes its place when all went well, and vanishes when not."""
    out_dir = out_dir.resolve()  # of a link, the folder that it leads to is replaced
    made = [parent for parent in out_dir.parents if not parent.exists()]
    suffix = uuid.uuid4().hex[:8]
    folder = out_dir.with_name(f".{out_dir.name}.{suffix}")
    replaced = out_dir.with_name(f".{out_dir.name}.{suffix}.replaced")
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        yield folder
        write_sums(folder)
        _check_folder(out_dir, force)  # somebody may have been quicker
        if out_dir.exists():
            out_dir.rename(replaced)
        folder.rename(out_dir)
        sync_folder(out_dir.parent)
    finally:
        # Whatever came between the two, Ctrl-C included, the old one goes back.
        if replaced.exists() and not out_dir.exists():
            replaced.rename(out_dir)
        for path in (folder, replaced):
            if path.exists():
                shutil.rmtree(path)
        for parent in made:
            with suppress(OSError):  # there is something in it
                parent.rmdir()
