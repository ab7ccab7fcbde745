"""Neural architecture search with DiCE units among the candidate operations.

Importing the package is quick: the names below load torch, NNI or Optuna when they are first used.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dicenas.architecture import Architecture as Architecture
    from dicenas.nets import build as build
    from dicenas.space import SpaceSpec as SpaceSpec

__version__ = "0.1.0"

_EXPORTS = {
    "Architecture": "dicenas.architecture",
    "SpaceSpec": "dicenas.space",
    "build": "dicenas.nets",
}

__all__ = ["__version__", *_EXPORTS]

# Started in a checkout, Python finds this folder, whether or not the package is installed; its subpackages
# search_spaces and strategies then stand beside it, not in it.
_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "setup.py").is_file() and (_ROOT / "search_spaces").is_dir():
    __path__.append(str(_ROOT))


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
