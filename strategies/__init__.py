"""Search strategies on Optuna, imported as ``dicenas.strategies``.

:class:`OptunaStrategy` is loaded when it is first used, and NNI with it; the study works without NNI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dicenas.strategies.costs import CostFunction, InfeasibleConstraintError, check_feasible, default_costs
from dicenas.strategies.evolution import EvolutionSampler
from dicenas.strategies.index import ProposalCounts
from dicenas.strategies.named import named_architecture
from dicenas.strategies.objectives import parse_objectives
from dicenas.strategies.predictor import PredictorSampler
from dicenas.strategies.promising import most_promising_first
from dicenas.strategies.rungs import SuccessiveHalving
from dicenas.strategies.samplers import SAMPLERS, make_sampler
from dicenas.strategies.spaces import SpaceExhaustedError
from dicenas.strategies.study import ArchitectureStudy
from dicenas.strategies.trials import Outcome, Proposal

if TYPE_CHECKING:
    from dicenas.strategies.optuna_strategy import OptunaStrategy as OptunaStrategy

__all__ = [
    "SAMPLERS",
    "ArchitectureStudy",
    "CostFunction",
    "EvolutionSampler",
    "InfeasibleConstraintError",
    "OptunaStrategy",
    "Outcome",
    "PredictorSampler",
    "Proposal",
    "ProposalCounts",
    "SpaceExhaustedError",
    "SuccessiveHalving",
    "check_feasible",
    "default_costs",
    "make_sampler",
    "most_promising_first",
    "named_architecture",
    "parse_objectives",
]


def __getattr__(name: str) -> Any:
    if name != "OptunaStrategy":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dicenas.strategies.optuna_strategy import OptunaStrategy

    return OptunaStrategy
