"""Search strategies on Optuna, imported as ``dicenas.strategies``."""

from dicenas.strategies.costs import CostFunction, InfeasibleConstraintError, check_feasible, default_costs
from dicenas.strategies.samplers import SAMPLERS, make_sampler
from dicenas.strategies.study import ArchitectureStudy, Outcome, Proposal, SpaceExhaustedError, parse_objectives

__all__ = [
    "SAMPLERS",
    "ArchitectureStudy",
    "CostFunction",
    "InfeasibleConstraintError",
    "Outcome",
    "Proposal",
    "SpaceExhaustedError",
    "check_feasible",
    "default_costs",
    "make_sampler",
    "parse_objectives",
]
