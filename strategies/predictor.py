"""A sampler that learns from the trials so far what each choice is worth, and what each costs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor

from dicenas.architecture import Architecture
from dicenas.space import Choice, SpaceSpec
from dicenas.strategies.closed_forms import ClosedForms
from dicenas.strategies.costs import CostFunction
from dicenas.strategies.index import holds
from dicenas.strategies.parameters import active_sample, draw
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

    An objective that is quickly told of any architecture, such as MACs or a latency from a table, is not modelled: its
    true values stand in for a model, as long as the trials report the same.

    A linear model says enough where trials are few: what blocks cost adds up, and what they gain does so roughly.
    What breaks a bound on MACs or parameters is no candidate. The sampler holds nothing but random numbers and what it
    computed: any number of processes may work on one study.

    Args:
        space: The space whose architectures the trials stand for. Every label must be a parameter of every trial, as
            in an :class:`~dicenas.strategies.ArchitectureStudy`.
        closed_forms: Bounds on MACs and parameters, and the image size at which these are counted; by default there
            are none, and it is each architecture's own.
        objective_costs: The objectives that are quickly told of any architecture, by their index. An architecture of
            which one is NaN is proposed last.
        startup_trials: Complete trials before the first model; until then architectures are drawn at random.
        candidates: Number of architectures that the models judge for a proposal.
        seed: Seed.

    Raises:
        ValueError: A number is below 2.
    """

    def __init__(
        self,
        space: SpaceSpec,
        *,
        closed_forms: ClosedForms | None = None,
        objective_costs: Mapping[int, CostFunction] | None = None,
        startup_trials: int = 8,
        candidates: int = 256,
        seed: int | None = None,
    ) -> None:
        for name, number in (("startup_trials", startup_trials), ("candidates", candidates)):
            if number < 2:
                raise ValueError(f"{name} {number} should be at least 2")
        self._space = space
        self._closed_forms = closed_forms or ClosedForms(space)
        self._objective_costs = dict(objective_costs or {})
        self._startup_trials = startup_trials
        self._candidates = candidates
        self._rng = Random(seed)
        self._common = IntersectionSearchSpace()
        self._architectures: dict[tuple[Any, ...], Architecture] = {}

    def reseed_rng(self) -> None:
        self._rng.seed()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {name: of for name, of in self._common.calculate(study).items() if not of.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        trials = study.get_trials(deepcopy=False)
        labels = {choice.label for choice in self._space.choices}
        known = [
            t
            for t in trials
            if t.state == TrialState.COMPLETE and labels <= t.params.keys() and np.isfinite(t.values).all()
        ]
        if len(known) < self._startup_trials:
            return {name: draw(distribution, self._rng) for name, distribution in search_space.items()}
        signs = np.array([-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in study.directions])
        losses = np.array([t.values for t in known]) * signs
        architectures = [self._architecture(t.params) for t in known]
        front = [a for a, rank in zip(architectures, domination_ranks(losses), strict=True) if not rank]
        # What failed, or is being evaluated, would be proposed in vain as well.
        taken = {a.hash for a in architectures} | {digest for t in trials if (digest := holds(t)) is not None}
        best = self._minimized(self._loss(architectures, losses, signs), front, taken)
        # Where as good as nothing is left, the study finds what is.
        return self._params(best or self._space.random(self._rng), search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return draw(param_distribution, self._rng)

    def _minimized(
        self, loss: Callable[[Sequence[Architecture], Tensor], Floats], front: Sequence[Architecture], taken: set[str]
    ) -> Architecture | None:
        """Return the architecture of the smallest loss that a short evolution finds, of those that may be evaluated.

        It begins with random architectures and mutations of the front; then the best are mutated.
        """
        if self._space.size == 1:
            return None
        share = self._candidates // (_ROUNDS + 2)
        drawn = self._random(share) + self._mutations(front, share)
        found: dict[Architecture, float] = {}
        for _ in range(_ROUNDS + 1):
            if new := [a for a in dict.fromkeys(drawn) if a not in found and a.hash not in taken]:
                rows = self._closed_forms.vectorized.encode(new)
                met = self._closed_forms.met(rows)
                allowed = list(itertools.compress(new, met.tolist()))
                found.update(zip(allowed, loss(allowed, rows[met]).tolist(), strict=True))
            parents = sorted(found, key=found.__getitem__)[:_PARENTS] or front
            drawn = self._mutations(parents, share)
        return min(found, key=found.__getitem__, default=None)

    def _random(self, count: int) -> list[Architecture]:
        """Draw architectures that meet the bounds, fewer where these are rare."""
        rows = self._closed_forms.vectorized.random(
            self._candidates, torch.Generator().manual_seed(self._rng.getrandbits(48))
        )
        return self._closed_forms.vectorized.decode(rows[self._closed_forms.met(rows)][:count])

    def _mutations(self, parents: Sequence[Architecture], count: int) -> list[Architecture]:
        return [self._space.mutate(self._rng.choice(parents), self._rng) for _ in range(count)]

    def _loss(
        self, architectures: Sequence[Architecture], losses: Floats, signs: Floats
    ) -> Callable[[Sequence[Architecture], Tensor], Floats]:
        """Return the loss of architectures, which are given as rows of the space too.

        Each objective is told by a model drawn from the posterior, or by its cost. The loss is Chebyshev's, weighed by
        a random direction, on the scale of the trials.
        """
        from sklearn.linear_model import BayesianRidge

        features = self._features(self._closed_forms.vectorized.encode(architectures))
        mean, scale = features.mean(0), features.std(0)
        scale[scale == 0] = np.inf  # says nothing yet
        rng = np.random.default_rng(self._rng.getrandbits(64))
        low, high = losses.min(0), losses.max(0)
        spread = np.where(high > low, high - low, 1.0)
        weights, offsets = np.zeros((features.shape[1], losses.shape[1])), (losses[0] - low) / spread
        told = [
            index
            for index in self._objective_costs
            if np.allclose(self._told(index, architectures) * signs[index], losses[:, index], rtol=1e-9)
        ]
        for objective, values in enumerate(((losses - low) / spread).T):
            if objective not in told and values.min() < values.max():
                model = BayesianRidge().fit((features - mean) / scale, values)
                weights[:, objective] = rng.multivariate_normal(model.coef_, model.sigma_, method="eigh")
                offsets[objective] = model.intercept_
        direction = rng.dirichlet(np.ones(len(low)))

        def loss(candidates: Sequence[Architecture], rows: Tensor) -> Floats:
            values = ((self._features(rows) - mean) / scale) @ weights + offsets
            for index in told:
                values[:, index] = (self._told(index, candidates) * signs[index] - low[index]) / spread[index]
            weighed = values * direction
            total: Floats = weighed.max(1) + _SUM_SHARE * weighed.sum(1)
            return np.where(np.isnan(total), np.inf, total)

        return loss

    def _told(self, objective: int, architectures: Sequence[Architecture]) -> Floats:
        """Return an objective as its cost tells it, NaN where it cannot."""
        return np.array([self._objective_costs[objective](architecture) for architecture in architectures])

    # Architectures as numbers

    def _features(self, rows: Tensor) -> Floats:
        """Return which value each choice has, none where it is inactive, and the logarithms of the costs."""
        columns = []
        for choice, codes in zip(self._space.choices, rows.T, strict=True):
            chosen = codes[:, None] == torch.arange(len(choice.values))
            columns.append(chosen & self._active(choice, rows)[:, None])
        features = torch.cat([*columns, self._closed_forms.costs(rows).log1p()], 1)
        return features.numpy().astype(np.float64)

    def _active(self, choice: Choice, rows: Tensor) -> Tensor:
        if choice.condition is None:
            return torch.ones(len(rows), dtype=torch.bool)
        label, values = choice.condition
        other = self._closed_forms.vectorized.labels.index(label)
        codes = [code for code, value in enumerate(self._space.choices[other].values) if value in values]
        return torch.isin(rows[:, other], torch.tensor(codes))

    def _architecture(self, params: Mapping[str, Any]) -> Architecture:
        key = tuple(params[choice.label] for choice in self._space.choices)
        if key not in self._architectures:
            self._architectures[key] = self._space.architecture(active_sample(self._space, params))
        return self._architectures[key]

    def _params(self, architecture: Architecture, search_space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
        sample = self._space.sample(architecture)
        return {name: sample[name] if name in sample else draw(of, self._rng) for name, of in search_space.items()}
