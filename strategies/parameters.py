"""Values of Optuna's parameters: drawn, and read as a sample of a space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from dicenas.space import SpaceSpec

__all__ = ["active_sample", "draw"]


def active_sample(space: SpaceSpec, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sample that the parameters of a trial stand for: those of choices that matter.

    Args:
        space: The space.
        params: A value for every label of the space.
    """
    sample: dict[str, Any] = {}
    for choice in space.choices:
        if choice.active(sample):
            sample[choice.label] = params[choice.label]
    return sample


def draw(distribution: BaseDistribution, rng: Random, other_than: Any = None) -> Any:
    """Draw a value uniformly (on a logarithmic scale where the distribution has one).

    Args:
        distribution: The distribution.
        rng: Source of random numbers.
        other_than: A value that is not to be drawn, where there are others.
    """
    if isinstance(distribution, CategoricalDistribution):
        others = [value for value in distribution.choices if value != other_than]
        return rng.choice(others or distribution.choices)
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        raise ValueError(f"cannot draw from a {type(distribution).__name__}")
    low, high, step = distribution.low, distribution.high, distribution.step
    if distribution.log:
        # Each whole number has the interval around it.
        margin = 0.5 if isinstance(distribution, IntDistribution) else 0.0
        value = math.exp(rng.uniform(math.log(low - margin), math.log(high + margin)))
        value = round(value) if margin else value
    elif step is None:
        value = rng.uniform(low, high)
    else:
        value = low + step * rng.randint(0, round((high - low) / step))
    return type(low)(min(max(value, low), high))
