"""Regularised evolution as an Optuna sampler, with mutations of architectures."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from dicenas.space import SpaceSpec
from dicenas.strategies.parameters import active_sample, draw
from dicenas.strategies.ranking import crowding_distances, domination_ranks

__all__ = ["EvolutionSampler"]


class EvolutionSampler(BaseSampler):
    """Mutates the winner of a tournament among the youngest trials (regularised evolution, arXiv 1802.01548).

    The population is the last ``population_size`` complete trials: whatever its result, a trial leaves it in the end,
    so that one lucky evaluation does not rule the search. It is read from the study each time: the sampler holds
    nothing, so any number of processes may work on one study, and a session may end at any time. Before there is a
    population, parameters are drawn at random.

    For several objectives a tournament is won by the front that an individual of the population stands in, then by
    how little crowded it is there; trials that violate constraints lose to those that violate them less.

    Args:
        space: The space whose architectures the trials stand for; a mutation then changes one choice that changes the
            network. Every label must be a parameter of every trial, as in an
            :class:`~dicenas.strategies.ArchitectureStudy`. Without it one parameter is drawn anew.
        population_size: Number of trials that may become parents.
        tournament_size: Number of trials, drawn from the population, of which the best becomes the parent.
        seed: Seed.

    Raises:
        ValueError: The population is smaller than 2, or the tournament smaller than 1 or larger than the population.
    """

    def __init__(
        self,
        space: SpaceSpec | None = None,
        *,
        population_size: int = 20,
        tournament_size: int = 10,
        seed: int | None = None,
    ) -> None:
        if population_size < 2:
            raise ValueError(f"population_size {population_size} should be at least 2")
        if not 1 <= tournament_size <= population_size:
            raise ValueError(f"tournament_size {tournament_size} should be 1 to population_size {population_size}")
        self._space = space
        self._population_size = population_size
        self._tournament_size = tournament_size
        self._rng = Random(seed)
        self._common = IntersectionSearchSpace()

    def reseed_rng(self) -> None:
        self._rng.seed()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {name: of for name, of in self._common.calculate(study).items() if not of.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        population = [t for t in complete[-self._population_size :] if search_space.keys() <= t.params.keys()]
        if not search_space or len(population) < self._population_size:
            return {name: draw(distribution, self._rng) for name, distribution in search_space.items()}
        parent = self._winner(population, study.directions)
        if self._space is not None:
            return self._mutate_architecture(self._space, parent.params)
        name = self._rng.choice(list(search_space))
        return {
            **{other: parent.params[other] for other in search_space},
            name: draw(search_space[name], self._rng, other_than=parent.params[name]),
        }

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return draw(param_distribution, self._rng)

    def _winner(self, population: list[FrozenTrial], directions: list[StudyDirection]) -> FrozenTrial:
        signs = [-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions]
        losses = np.array([trial.values for trial in population]) * signs
        violations = [sum(max(0.0, value) for value in trial.constraints.values()) for trial in population]
        ranks = domination_ranks(losses)
        crowding = crowding_distances(losses, ranks)
        entrants = self._rng.sample(range(len(population)), self._tournament_size)
        return population[min(entrants, key=lambda i: (violations[i], ranks[i], -crowding[i]))]

    def _mutate_architecture(self, space: SpaceSpec, params: Mapping[str, Any]) -> dict[str, Any]:
        parent = space.architecture(active_sample(space, params))
        mutated = space.sample(space.mutate(parent, self._rng))
        # What is inactive is inherited, to come back when a later mutation activates it.
        return {choice.label: mutated.get(choice.label, params[choice.label]) for choice in space.choices}
