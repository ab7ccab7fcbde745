"""The ``evaluator:`` section: how architectures are evaluated, and what ends an evaluation before its end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dicenas.config import values
from dicenas.config.section import as_section, read_value, read_values
from dicenas.config.values import Reader
from dicenas.evaluation import (
    EvaluatorConfig,
    ProxyConfig,
    SupernetConfig,
    TabularConfig,
    TabularEvaluator,
    TrainEvaluatorConfig,
)
from dicenas.evaluation.supernet import SAMPLINGS

__all__ = [
    "EVALUATORS",
    "PROXY_KEYS",
    "TrialLimits",
    "evaluator_kind",
    "evaluator_section",
    "proxy_section",
    "read_evaluator",
    "read_proxy",
]


@dataclass(frozen=True)
class TrialLimits:
    """What ends the evaluation of an architecture before its end; keys of the ``evaluator:`` section too.

    Attributes:
        rungs: Epochs after which only the best go on (successive halving), ascending; none for no such choice.
        reduction_factor: One of so many goes on from a rung.
        time_limit_s: Seconds after which a trial has failed; ``None`` for no limit.
    """

    rungs: tuple[int, ...] = ()
    reduction_factor: int = 3
    time_limit_s: float | None = None


@dataclass(frozen=True)
class _Kind:
    """A kind of evaluator: its dataclass, and the readers of its keys."""

    config: type[EvaluatorConfig]
    keys: Mapping[str, Reader]
    limits: Mapping[str, Reader]
    seeded: bool = True


_TIME_LIMIT: dict[str, Reader] = {"time_limit_s": values.optional(values.number(above=True))}
_RUNGS: dict[str, Reader] = {"rungs": values.ascending(1), "reduction_factor": values.integer(2)}

_TRAINING: dict[str, Reader] = {
    "epochs": values.integer(1),
    "batch": values.integer(2),
    "learning_rate": values.number(above=True),
    "weight_decay": values.number(),
    "momentum": values.number(0, 1),
    "max_grad_norm": values.number(above=True),
    "label_smoothing": values.number(0, 1),
    "threads": values.optional(values.integer(1)),
    "augment": values.flag,
}

#: Keys of the ``proxy:`` section, and of the ``evaluator:`` section where proxies alone evaluate.
PROXY_KEYS: dict[str, Reader] = {
    "proxies": values.proxies,
    "sample": values.integer(2),
    "batch": values.integer(2),
}

_KINDS: dict[str, _Kind] = {
    "train": _Kind(TrainEvaluatorConfig, {**_TRAINING, "inherit": values.flag}, {**_RUNGS, **_TIME_LIMIT}),
    "supernet": _Kind(
        SupernetConfig,
        {
            **_TRAINING,
            "sampling": values.one_of(*SAMPLINGS),
            "recalibration_batches": values.integer(1),
            "checkpoint_seconds": values.number(),
        },
        _TIME_LIMIT,
    ),
    "proxy": _Kind(ProxyConfig, PROXY_KEYS, _TIME_LIMIT),
    "tabular": _Kind(
        TabularConfig,
        {
            "path": values.path,
            "latency": values.optional(values.path),
            "latency_column": values.name,
            "training_seed": values.optional(values.integer(0)),
        },
        _RUNGS,
        seeded=False,
    ),
}

#: Ways to evaluate an architecture.
EVALUATORS = tuple(_KINDS)


def read_evaluator(given: Any, seed: int, problems: list[str]) -> tuple[EvaluatorConfig, TrialLimits]:
    """Read the section; what is wrong in it keeps its default and is reported.

    Args:
        given: The section, as YAML gives it.
        seed: Seed of the search.
        problems: Takes a line for each mistake.
    """
    name = given.get("kind", "train") if isinstance(given, Mapping) else "train"
    if name not in EVALUATORS:
        # Whichever kind is meant, its keys are some of these.
        readers = {key: reader for kind in _KINDS.values() for key, reader in {**kind.keys, **kind.limits}.items()}
        section = as_section("evaluator", given, ("kind", *readers), problems)
        for key, reader in {"kind": values.one_of(*EVALUATORS), **readers}.items():
            if key in section:
                read_value(f"evaluator.{key}", section[key], reader, problems, default=None)
        return TrainEvaluatorConfig(seed=seed), TrialLimits()
    kind = _KINDS[name]
    section = as_section("evaluator", given, ("kind", *kind.keys, *kind.limits), problems)
    before = len(problems)
    fixed = {"seed": seed} if kind.seeded else {}
    config = read_values(kind.config, "evaluator", section, kind.keys, problems, **fixed)
    limits = read_values(TrialLimits, "evaluator", section, kind.limits, problems)
    if len(problems) == before:
        _check_together(config, limits, problems)
    return config, limits


def _check_together(config: EvaluatorConfig, limits: TrialLimits, problems: list[str]) -> None:
    """Report what is wrong with values that are right one by one."""
    if isinstance(config, TabularConfig):
        try:
            epochs = TabularEvaluator(**dataclasses.asdict(config)).epochs
        except ValueError as error:
            problems.append(f"evaluator: {error}")
            return
    else:
        epochs = getattr(config, "epochs", 0)
    if limits.rungs and limits.rungs[-1] >= epochs:
        problems.append(
            f"evaluator.rungs = {list(limits.rungs)}: expected epochs before the last one, {epochs}: "
            "what is at its end goes on no further"
        )


def evaluator_kind(config: EvaluatorConfig) -> str:
    """Return the kind of evaluator that a configuration describes, one of :data:`EVALUATORS`."""
    return next(name for name, kind in _KINDS.items() if type(config) is kind.config)


def read_proxy(given: Any, seed: int, problems: list[str]) -> ProxyConfig:
    """Read the ``proxy:`` section; what is wrong in it keeps its default and is reported."""
    section = as_section("proxy", given, PROXY_KEYS, problems)
    return read_values(ProxyConfig, "proxy", section, PROXY_KEYS, problems, seed=seed)


def proxy_section(config: ProxyConfig) -> dict[str, Any]:
    """Return the ``proxy:`` section as plain data."""
    return {"proxies": list(config.proxies), "sample": config.sample, "batch": config.batch}


def evaluator_section(config: EvaluatorConfig, limits: TrialLimits) -> dict[str, Any]:
    """Return the section as plain data, without what is only told where it is wanted."""
    name = evaluator_kind(config)
    section = {"kind": name, **{key: getattr(config, key) for key in _KINDS[name].keys}}
    wanted = dataclasses.asdict(limits)
    if not limits.rungs:
        del wanted["reduction_factor"]
    section |= {key: value for key, value in wanted.items() if value}
    if not section.get("inherit"):
        section.pop("inherit", None)
    return section
