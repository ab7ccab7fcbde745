"""Ops that installed packages bring: the entry points of the group ``dicenas.ops``.

A package names the module that registers its ops; in its ``pyproject.toml``::

    [project.entry-points."dicenas.ops"]
    acme = "acme_ops.candidates"

The module is imported with :mod:`dicenas.ops`. Only what is installed is looked at: no configuration can name a module.
"""

from __future__ import annotations

import importlib
import warnings
from importlib.metadata import entry_points

from dicenas.ops import registry

__all__ = ["GROUP", "load_installed_ops"]

#: The group of entry points.
GROUP = "dicenas.ops"


def load_installed_ops() -> None:
    """Import the modules that installed packages name, each of which registers ops.

    A module that fails, or registers a name that is taken, is warned of by the name of its entry point, and none of its
    ops stays: what does not use them is not to suffer.
    """
    for entry_point in sorted(entry_points(group=GROUP)):
        before = dict(registry._REGISTRY)
        try:
            importlib.import_module(entry_point.module)
        except Exception as error:  # noqa: BLE001  (whatever somebody else's module raises)
            registry._REGISTRY.clear()
            registry._REGISTRY.update(before)
            package = entry_point.dist.name if entry_point.dist is not None else "an unknown package"
            warnings.warn(
                f"the entry point {entry_point.name!r} of {package} in the group {GROUP!r} "
                f"({entry_point.value}) failed and its ops are missing: {type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
