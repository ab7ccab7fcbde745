"""NNI's mutables as Optuna's distributions, and the values back."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import dicenas.search_spaces._nni  # isort: skip  # noqa: F401  (before anything else of NNI)
from nni.mutable import Categorical, CategoricalMultiple, Numerical
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

__all__ = ["Parameter", "parameter"]

# Subsets of one choice become that many categories.
_MOST_SUBSETS = 4096


@dataclass(frozen=True)
class Parameter:
    """A mutable as Optuna sees it.

    Attributes:
        distribution: Where Optuna draws from.
        value: Maps what Optuna drew to what the mutable takes.
    """

    distribution: BaseDistribution
    value: Callable[[Any], Any]


def parameter(label: str, mutable: Any) -> Parameter:
    """Return the parameter for a mutable.

    Args:
        label: Label of the mutable.
        mutable: A ``Categorical``, a ``CategoricalMultiple`` or a bounded ``Numerical``.

    Raises:
        ValueError: Optuna has no distribution for it.
    """
    if isinstance(mutable, CategoricalMultiple):
        return _indexed(_subsets(label, mutable))
    if isinstance(mutable, Categorical):
        values = list(mutable.values)
        if all(value is None or isinstance(value, bool | int | float | str) for value in values):
            return Parameter(CategoricalDistribution(values), lambda value: value)
        return _indexed(dict(enumerate(values)))
    if isinstance(mutable, Numerical):
        return Parameter(_numerical(label, mutable), lambda value: value)
    raise ValueError(
        f"{label!r} is a {type(mutable).__name__}, for which Optuna has no distribution; "
        "categorical, multiple-choice and bounded numerical mutables can be searched"
    )


def _indexed(values: Mapping[int, Any]) -> Parameter:
    return Parameter(CategoricalDistribution(list(values)), values.__getitem__)


def _subsets(label: str, mutable: Any) -> dict[int, list[Any]]:
    values = list(mutable.values)
    sizes = range(len(values) + 1) if mutable.n_chosen is None else [mutable.n_chosen]
    count = sum(math.comb(len(values), size) for size in sizes)
    if count > _MOST_SUBSETS:
        raise ValueError(f"{label!r} has {count:,} subsets to choose from; at most {_MOST_SUBSETS:,} can be searched")
    subsets = itertools.chain.from_iterable(itertools.combinations(values, size) for size in sizes)
    return {index: list(subset) for index, subset in enumerate(subsets)}


def _numerical(label: str, mutable: Any) -> FloatDistribution:
    low, high, step = mutable.low, mutable.high, mutable.quantize
    if mutable.mu is not None or not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{label!r} is not uniform or log-uniform between two bounds; Optuna cannot draw from it")
    if step is None:
        return FloatDistribution(low, high, log=mutable.log_distributed)
    if mutable.log_distributed:
        raise ValueError(f"{label!r} is log-uniform and quantized; Optuna cannot draw from it")
    return FloatDistribution(math.ceil(low / step) * step, math.floor(high / step) * step, step=step)
