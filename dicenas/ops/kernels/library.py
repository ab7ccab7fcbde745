"""Finding and loading the kernel libraries."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dicenas.ops.kernels import build

__all__ = ["Library", "find_cuda_code", "load_library", "switched_off"]

_ABI_VERSION = 5


@dataclass(frozen=True)
class Library:
    """What became of the library of one kind: loaded from ``path``, or not, for ``reason``."""

    kind: str
    handle: ctypes.CDLL | None
    path: Path | None
    reason: str


def switched_off() -> bool:
    """Whether ``DICENAS_KERNELS=off`` switches the kernels off.

    Raises:
        ValueError: The variable holds something else than ``on`` or ``off``.
    """
    value = os.environ.get("DICENAS_KERNELS", "on")
    if value not in ("on", "off"):
        raise ValueError(f"DICENAS_KERNELS is {value!r}, expected 'on' or 'off'")
    return value == "off"


def _open(kind: str, path: Path, expected_hash: str | None) -> Library:
    try:
        handle = ctypes.CDLL(str(path))
        version = handle.dicenas_abi_version()
        handle.dicenas_source_hash.restype = ctypes.c_char_p
        built_from = handle.dicenas_source_hash().decode()
    except (OSError, AttributeError) as error:
        return Library(kind, None, path, f"it does not load: {error}")
    if version != _ABI_VERSION:
        return Library(kind, None, path, f"it has interface {version}, this dicenas wants {_ABI_VERSION}")
    if expected_hash is not None and built_from != expected_hash:
        return Library(kind, None, path, "it was built from other sources than are installed: build it again")
    return Library(kind, handle, path, "loaded")


@cache
def load_library(kind: str = "cpu") -> Library:
    """Load the CPU library: the installed one, or one that ``dicenas kernels build`` put into the cache."""
    import torch  # noqa: F401  (its OpenMP library has to be the one that both use)

    if switched_off():
        return Library(kind, None, None, "switched off by DICENAS_KERNELS=off")
    candidates = [Path(__file__).resolve().parent / build.library_name(kind)]
    expected_hash = None
    if build.source_folder() is not None:
        expected_hash = build.source_hash(kind)
        candidates += build.cached_libraries(kind)
    result = Library(kind, None, None, "it was not built: run `dicenas kernels build`")
    for path in candidates:
        if path.is_file():
            result = _open(kind, path, expected_hash)
            if result.handle is not None:
                break
    return result


def find_cuda_code() -> Path | None:
    """Return the CUDA code that was compiled ahead, installed or in the cache, or ``None``."""
    folder = Path(__file__).resolve().parent
    if build.source_folder() is None:
        return next(folder.glob("dicenas_cuda_*.fatbin"), None)
    candidates = [folder / build.library_name("cuda"), *build.cached_libraries("cuda")]
    return next((path for path in candidates if path.is_file()), None)
