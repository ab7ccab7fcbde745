"""The formats that a network can be exported in, and what each of them needs."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import torch

from dicenas.spelling import did_you_mean

__all__ = ["DTYPES", "FORMATS", "FRESH", "TOLERANCES", "check_formats", "tolerance"]

#: Formats by name, each with the file by which it is known in an exported folder.
FORMATS = {
    "py": "model.py",
    "safetensors": "model.safetensors",
    "onnx": "model.onnx",
    "pt2": "model.pt2",
    "torchscript": "model.ts",
    "timm": "timm/timm_model.py",
}
#: What the metadata of ``model.safetensors`` says of weights that were not trained.
FRESH = {"weights": "fresh"}
#: Number types of an exported network.
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
#: Largest difference from the trained network's logits, relative to the largest of them: by number type, and for
#: float32 with normalisations folded. A float16 has 11 bits and a bfloat16 8, and a network magnifies what they lose.
TOLERANCES = {"float32": 1e-5, "folded": 1e-4, "float16": 4e-2, "bfloat16": 3e-1}

# What is imported to write a format or to verify it.
_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "timm": ("timm",)}


def tolerance(dtype: str, fold_bn: bool) -> float:
    """Return the tolerance under which an export is verified, relative to the largest logit."""
    return TOLERANCES["folded" if fold_bn and dtype == "float32" else dtype]


def check_formats(formats: Sequence[str], dtype: str = "float32") -> None:
    """Check that a network can be exported so on this machine.

    Args:
        formats: Keys of :data:`FORMATS`.
        dtype: One of :data:`DTYPES`.

    Raises:
        ValueError: A name is unknown, no format is given, a package is missing (the message names the extra that
            brings it), this torch has no TorchScript, or nothing here could verify the format in this number type.
    """
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"unknown format {name!r}{did_you_mean(name, FORMATS)} (known: {', '.join(FORMATS)})")
    if not formats:
        raise ValueError(f"no format given; choose from {', '.join(FORMATS)}")
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}{did_you_mean(dtype, DTYPES)} (known: {', '.join(DTYPES)})")
    for name in formats:
        missing = [package for package in _PACKAGES.get(name, ()) if importlib.util.find_spec(package) is None]
        if missing:
            raise ValueError(
                f"format {name!r} needs {' and '.join(missing)}, which is not installed: pip install 'dicenas[export]'"
            )
    if "torchscript" in formats and not hasattr(torch.jit, "trace"):
        raise ValueError(f"torch {torch.__version__} has no TorchScript any more; 'pt2' is what replaced it")
    if "onnx" in formats and dtype == "bfloat16":
        raise ValueError(
            "onnxruntime has no bfloat16 convolutions on the CPU, so that nothing would verify the file: "
            "take float16 or float32 for format 'onnx'"
        )
