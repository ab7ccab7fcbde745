"""Neural architecture search with DiCE units among the candidate operations.

Importing the package is quick: the names below load torch, NNI or Optuna when they are first used.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dicenas.architecture import Architecture as Architecture
    from dicenas.convert import convert as convert
    from dicenas.nets import build as build
    from dicenas.nets import dicenet as dicenet
    from dicenas.nets import dicenet_segmentation as dicenet_segmentation
    from dicenas.nets import fuse_for_inference as fuse_for_inference
    from dicenas.nets import shufflenetv2 as shufflenetv2
    from dicenas.search import search as search
    from dicenas.space import SpaceSpec as SpaceSpec

__version__ = "0.1.0"

_EXPORTS = {
    "Architecture": "dicenas.architecture",
    "SpaceSpec": "dicenas.space",
    "build": "dicenas.nets",
    "convert": "dicenas.convert",
    "dicenet": "dicenas.nets",
    "dicenet_segmentation": "dicenas.nets",
    "fuse_for_inference": "dicenas.nets",
    "search": "dicenas.search",
    "shufflenetv2": "dicenas.nets",
}

__all__ = ["__version__", *_EXPORTS]

#: Functions whose module has their name.
_FUNCTIONS = ("convert", "search")

# Started in a checkout, Python finds this folder, whether or not the package is installed; its subpackages
# search_spaces and strategies then stand beside it, not in it.
_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "setup.py").is_file() and (_ROOT / "search_spaces").is_dir():
    __path__.append(str(_ROOT))


class _Package(ModuleType):
    """The type of this package, in which ``dicenas.search`` is the function whatever is imported first.

    The same holds for ``dicenas.convert``.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system binds a submodule to its package when it is first imported: `from dicenas.search import
        # SearchResult` would replace the function by the module.
        if name in _FUNCTIONS and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
