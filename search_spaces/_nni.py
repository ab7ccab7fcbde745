"""Imports NNI without its two known warnings, and without hiding any other.

NNI 3.0 wraps every class that torch exports and warns of two that newer releases added and that are no modules.
"""

from __future__ import annotations

import warnings

_NOT_MODULES = ("Buffer", "LinearCrossEntropyOptions")

with warnings.catch_warnings():
    for _name in _NOT_MODULES:
        warnings.filterwarnings(
            "ignore",
            message=rf"<class 'torch\.nn\..*\.{_name}'> is found to be not a nn\.Module",
            category=RuntimeWarning,
        )
    import nni.nas.nn.pytorch  # noqa: F401
