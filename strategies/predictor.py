"""A sampler that learns from the trials so far what each choice is worth, and what each costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from dicenas.architecture import Architecture
from dicenas.space import Choice, SpaceSpec
from dicenas.strategies.evolution import draw
from dicenas.strategies.ranking import domination_ranks

__all__ = ["PredictorSampler"]

Floats = NDArray[np.float64]

#: How much the sum of all objectives counts beside the worst one in a scalarised loss (ParEGO's rho).
_SUM_SHARE = 0.05
#: Rounds in which the best candidates are mutated, and how many of them are.
_ROUNDS = 3
_PARENTS = 8


class PredictorSampler(BaseSampler):
    """Proposes what a linear model of the trials so far takes for best (after ParEGO and Thompson sampling).

    For each objective a Bayesian ridge regression is fitted to the complete trials. Its features are what the
    architecture chooses and the logarithms of its MACs and parameters, which closed forms give. One model is drawn
    from the posterior (Thompson 1933), which explores what the trials say little about. A short
    evolution, from random architectures and mutations of the Pareto front, looks for the smallest loss by the drawn
    models, the objectives being weighed by a random direction (ParEGO, Knowles 2006): so all of the front is reached.

    A linear model says enough where trials are few: what blocks cost adds up, and what they gain does so roughly.
    The sampler holds nothing but random numbers: any number of processes may work on one study.

    Args:
        space: The space whose architectures the trials stand for. Every label must be a parameter of every trial, as
            in an :class:`~dicenas.strategies.ArchitectureStudy`.
        startup_trials: Complete trials before the first model; until then architectures are drawn at random.
        candidates: Number of architectures that the models judge for a proposal.
        seed: Seed.

    Raises:
        ValueError: A number is below 2.
    """

    def __init__(
        self, space: SpaceSpec, *, startup_trials: int = 8, candidates: int = 256, seed: int | None = None
    ) -> None:
        for name, number in (("startup_trials", startup_trials), ("candidates", candidates)):
            if number < 2:
                raise ValueError(f"{name} {number} should be at least 2")
        self._space = space
        self._startup_trials = startup_trials
        self._candidates = candidates
        self._rng = Random(seed)
        self._common = IntersectionSearchSpace()
        self._features: dict[str, Floats] = {}

    def reseed_rng(self) -> None:
        self._rng.seed()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {name: of for name, of in self._common.calculate(study).items() if not of.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        labels = {choice.label for choice in self._space.choices}
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        known = [t for t in complete if labels <= t.params.keys() and np.isfinite(t.values).all()]
        if len(known) < self._startup_trials:
            return {name: draw(distribution, self._rng) for name, distribution in search_space.items()}
        signs = [-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in study.directions]
        losses = np.array([t.values for t in known]) * signs
        architectures = [self._architecture(t.params) for t in known]
        front = [a for a, rank in zip(architectures, domination_ranks(losses), strict=True) if not rank]
        loss = self._loss(architectures, losses)
        best = self._minimized(loss, front, {a.hash for a in architectures})
        # Where as good as nothing is left, the study finds what is.
        return self._params(best or self._space.random(self._rng), search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return draw(param_distribution, self._rng)

    def _minimized(
        self, loss: Callable[[Sequence[Architecture]], Floats], front: Sequence[Architecture], known: set[str]
    ) -> Architecture | None:
        """Return the architecture of the smallest loss that a short evolution finds, of those not evaluated yet.

        It begins with random architectures and mutations of the front; then the best are mutated.
        """
        if self._space.size == 1:
            return None
        share = self._candidates // (_ROUNDS + 2)
        drawn = [self._space.random(self._rng) for _ in range(share)]
        drawn += [self._space.mutate(self._rng.choice(front), self._rng) for _ in range(share)]
        found: dict[Architecture, float] = {}
        for _ in range(_ROUNDS + 1):
            if new := [a for a in dict.fromkeys(drawn) if a.hash not in known and a not in found]:
                found.update(zip(new, loss(new).tolist(), strict=True))
            parents = sorted(found, key=found.__getitem__)[:_PARENTS] or front
            drawn = [self._space.mutate(self._rng.choice(parents), self._rng) for _ in range(share)]
        return min(found, key=found.__getitem__, default=None)

    def _loss(
        self, architectures: Sequence[Architecture], losses: Floats
    ) -> Callable[[Sequence[Architecture]], Floats]:
        """Return the loss of architectures by models drawn from the posterior, one for each objective.

        It is Chebyshev's, weighed by a random direction, on the scale of the trials.
        """
        from sklearn.linear_model import BayesianRidge

        features = self._table(architectures)
        mean, scale = features.mean(0), features.std(0)
        scale[scale == 0] = np.inf  # says nothing yet
        rng = np.random.default_rng(self._rng.getrandbits(64))
        low, high = losses.min(0), losses.max(0)
        spread = np.where(high > low, high - low, 1.0)
        weights, offsets = np.zeros((features.shape[1], losses.shape[1])), (losses[0] - low) / spread
        for objective, values in enumerate(((losses - low) / spread).T):
            if values.min() < values.max():
                model = BayesianRidge().fit((features - mean) / scale, values)
                weights[:, objective] = rng.multivariate_normal(model.coef_, model.sigma_, method="eigh")
                offsets[objective] = model.intercept_
        direction = rng.dirichlet(np.ones(len(low)))

        def loss(candidates: Sequence[Architecture]) -> Floats:
            weighed = (((self._table(candidates) - mean) / scale) @ weights + offsets) * direction
            total: Floats = weighed.max(1) + _SUM_SHARE * weighed.sum(1)
            return total

        return loss

    # Architectures as numbers

    def _table(self, architectures: Iterable[Architecture]) -> Floats:
        return np.array([self._features_of(architecture) for architecture in architectures])

    def _features_of(self, architecture: Architecture) -> Floats:
        if architecture.hash not in self._features:
            sample = self._space.sample(architecture)
            chosen = [float(sample.get(choice.label) == value) for choice, value in self._values()]
            cost = self._space.cost(architecture)
            self._features[architecture.hash] = np.array([*chosen, math.log(1 + cost.macs), math.log(1 + cost.params)])
        return self._features[architecture.hash]

    def _values(self) -> list[tuple[Choice, Any]]:
        return [(choice, value) for choice in self._space.choices for value in choice.values]

    def _architecture(self, params: Mapping[str, Any]) -> Architecture:
        active: dict[str, Any] = {}
        for choice in self._space.choices:
            if choice.active(active):
                active[choice.label] = params[choice.label]
        return self._space.architecture(active)

    def _params(self, architecture: Architecture, search_space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
        sample = self._space.sample(architecture)
        return {name: sample[name] if name in sample else draw(of, self._rng) for name, of in search_space.items()}
