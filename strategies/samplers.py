"""Samplers by name, set up for searches over networks."""

from __future__ import annotations

import importlib.util
import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler

from dicenas.spelling import did_you_mean
from dicenas.strategies.closed_forms import ClosedForms
from dicenas.strategies.costs import CostFunction
from dicenas.strategies.evolution import EvolutionSampler
from dicenas.strategies.predictor import PredictorSampler

__all__ = ["SAMPLERS", "check_sampler", "make_sampler"]

# Optuna's default of 50 makes a genetic search of 24 or 100 trials a random one: the first population is drawn
# blindly. Measured on a space of 17 choices, 8 to 12 gave the largest hypervolume from 50 to 300 trials.
_POPULATION_SIZE = 10


@dataclass(frozen=True)
class _Problem:
    """What a sampler may know beside the trials of the study."""

    seed: int | None = None
    closed_forms: ClosedForms | None = None
    objective_costs: Mapping[int, CostFunction] = field(default_factory=dict)


def _gp(problem: _Problem) -> BaseSampler:
    if importlib.util.find_spec("scipy") is None:
        raise ImportError("sampler 'gp' needs scipy: install it (pip install scipy) or take sampler 'tpe'")
    return GPSampler(seed=problem.seed)


def _nsga3(problem: _Problem) -> BaseSampler:
    with warnings.catch_warnings():
        # It has been experimental since Optuna 3.2.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return NSGAIIISampler(seed=problem.seed, population_size=_POPULATION_SIZE)


def _predictor(problem: _Problem) -> BaseSampler:
    if importlib.util.find_spec("sklearn") is None:
        raise ImportError(
            "sampler 'predictor' needs scikit-learn: install it (pip install scikit-learn) or take sampler 'evolution'"
        )
    forms = problem.closed_forms
    if forms is None:
        raise ValueError("sampler 'predictor' needs the architectures of a SpaceSpec; take sampler 'tpe' here")
    return PredictorSampler(forms.space, closed_forms=forms, objective_costs=problem.objective_costs, seed=problem.seed)


def _evolution(problem: _Problem) -> BaseSampler:
    space = None if problem.closed_forms is None else problem.closed_forms.space
    return EvolutionSampler(space, seed=problem.seed)


_SAMPLERS: dict[str, Callable[[_Problem], BaseSampler]] = {
    "evolution": _evolution,
    "gp": _gp,
    "nsga2": lambda problem: NSGAIISampler(seed=problem.seed, population_size=_POPULATION_SIZE),
    "nsga3": _nsga3,
    "predictor": _predictor,
    "random": lambda problem: RandomSampler(seed=problem.seed),
    "tpe": lambda problem: TPESampler(seed=problem.seed),
}

#: Names of the samplers. All of them take one or several objectives.
SAMPLERS = tuple(_SAMPLERS)

#: How often a sampler may draw for one trial before the space itself is asked; samplers that are not named draw ten
#: times. What the Gaussian process takes half a second to propose it would propose again.
_DRAWS = {"gp": 1, "random": 1, "tpe": 4}


def draws(name: str) -> int:
    """Return how often a sampler may draw for one trial."""
    return _DRAWS.get(name, 10)


def check_sampler(name: str) -> None:
    """Check that a sampler of this name exists.

    Raises:
        ValueError: There is none.
    """
    if name not in _SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}{did_you_mean(name, SAMPLERS)} (samplers: {', '.join(SAMPLERS)})")


def make_sampler(
    name: str,
    seed: int | None = None,
    closed_forms: ClosedForms | None = None,
    objective_costs: Mapping[int, CostFunction] | None = None,
) -> BaseSampler:
    """Return a sampler.

    Args:
        name: One of :data:`SAMPLERS`.
        seed: Seed, ``None`` for a different search each time.
        closed_forms: The space and its bounds, for samplers that propose architectures; without it evolution mutates
            parameters, and there is no predictor.
        objective_costs: The objectives that are quickly told of any architecture, by their index, for the predictor.

    Raises:
        ValueError: There is no such sampler, or it needs architectures.
        ImportError: The sampler needs a package that is not installed.
    """
    check_sampler(name)
    return _SAMPLERS[name](_Problem(seed, closed_forms, objective_costs or {}))


def session_seed(seed: int | None, trials: int, worker: int) -> int | None:
    """Return the seed of a session of a worker that finds this number of trials in the study.

    A study that is taken up again must not repeat the random numbers of its first session, nor a worker those of
    another.
    """
    if seed is None or (trials == 0 and worker == 0):
        return seed
    who = f", worker {worker}" if worker else ""
    return random.Random(f"{seed} after {trials} trials{who}").getrandbits(32)
