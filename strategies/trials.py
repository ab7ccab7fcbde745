"""Trials of a study: what is proposed, how it ended, and the form in which Optuna keeps both."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from dicenas.architecture import Architecture

__all__ = ["Outcome", "Proposal"]


@dataclass(frozen=True)
class Proposal:
    """What a study asks to evaluate.

    Attributes:
        number: Number of the trial.
        sample: Value of each active choice.
        hash: Digest that two proposals share exactly when they mean the same network.
        architecture: The architecture; ``None`` in a space that is not a :class:`~dicenas.space.SpaceSpec`.
        costs: What is known of it already.
    """

    number: int
    sample: Mapping[str, Any]
    hash: str
    architecture: Architecture | None = None
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        metrics: Costs and what the evaluation reported, as far as it is finite.
        error: Why the trial failed, ``None`` where it did not.
    """

    metrics: Mapping[str, float]
    error: str | None = None

    @property
    def state(self) -> Literal["complete", "failed"]:
        """``"complete"`` or ``"failed"``."""
        return "complete" if self.error is None else "failed"


def digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(data), sort_keys=True).encode()).hexdigest()[:16]


def describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def judge(proposal: Proposal, metrics: Mapping[str, Any], objectives: Iterable[str]) -> Outcome:
    """Return how a trial ended, from what its evaluation reported; costs stand in for what it did not."""
    values: dict[str, float] = dict(proposal.costs)
    errors = []
    for name, value in metrics.items():
        try:
            values[name] = float(value)
        except (TypeError, ValueError):
            values[name] = math.nan
            errors.append(f"metric {name} is no number: {value!r:.80}")
    if missing := [name for name in objectives if name not in values]:
        reported = ", ".join(metrics) or "nothing"
        errors.append(f"the evaluation did not report {', '.join(missing)} (it reported {reported})")
    errors += [f"{name} is {values[name]}" for name in objectives if not math.isfinite(values.get(name, 0))]
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    return Outcome(finite, "; ".join(errors) or None)


def to_dict(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "state": trial.state.name,
        "values": trial.values,
        "params": trial.params,
        "distributions": {
            label: optuna.distributions.distribution_to_json(distribution)
            for label, distribution in trial.distributions.items()
        },
        "user_attrs": trial.user_attrs,
        "system_attrs": dict(trial.system_attrs),
    }


def from_dict(data: Mapping[str, Any]) -> FrozenTrial:
    return optuna.trial.create_trial(
        state=TrialState[data["state"]],
        values=data["values"],
        params=data["params"],
        distributions={
            label: optuna.distributions.json_to_distribution(text) for label, text in data["distributions"].items()
        },
        user_attrs=data["user_attrs"],
        system_attrs=data["system_attrs"],
    )
