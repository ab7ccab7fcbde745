"""Trials of a study: what is proposed, how it ended, and the form in which Optuna keeps both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
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


def counts(trial: FrozenTrial) -> bool:
    attrs = trial.user_attrs
    return "duplicate_of" not in attrs and (trial.state == TrialState.COMPLETE or "error" in attrs)


def digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(data), sort_keys=True).encode()).hexdigest()[:16]


def describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


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
