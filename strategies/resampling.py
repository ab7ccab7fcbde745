"""A sampler that draws from another one until what it drew is worth a trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseGASampler, BaseSampler
from optuna.trial import FrozenTrial, TrialState

from dicenas.strategies.spaces import PassedOverError, SearchedSpace
from dicenas.strategies.trials import Proposal

__all__ = ["ResamplingSampler"]

# Until so many trials are there, samplers know too little for their proposals to be worth repairing.
_TRIALS_AT_RANDOM = 10


class ResamplingSampler(BaseSampler):
    """Draws all parameters of a trial from a sampler, again where they are infeasible or known.

    What a sampler proposes is examined before the trial has any parameter, so that nothing infeasible and nothing
    known becomes a trial. After some fruitless draws the space itself finds something: near the last proposal, so
    that what the sampler is after is not lost, or at random while the sampler is still drawing at random itself.

    Args:
        inner: The sampler.
        space: The space.
        accept: Returns a proposal with its costs, or raises :class:`~dicenas.strategies.spaces.PassedOverError`.
        evaluations: Tells how many evaluations ended.
        draws: Draws before the space is asked.
        near: Whether what the space finds should be near the last proposal.
    """

    def __init__(
        self,
        inner: BaseSampler,
        space: SearchedSpace,
        accept: Callable[[Proposal], Proposal],
        evaluations: Callable[[], int],
        draws: int,
        near: bool,
    ) -> None:
        self.inner = inner
        self._space = space
        self._accept = accept
        self._evaluations = evaluations
        self._draws = draws
        self._near = near
        self._accepted: dict[int, Proposal] = {}
        self.start()

    def start(self) -> None:
        """Begin to count for the next trial."""
        #: Number of the trial that is drawn for, None before there is one.
        self.trial: int | None = None
        #: Proposals for it that were passed over, by reason.
        self.passed_over: Counter[str] = Counter()

    def take(self, number: int) -> Proposal | None:
        """Return what was proposed for a trial, once; None where the trial was enqueued."""
        return self._accepted.pop(number, None)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space.distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        relative = self.inner.infer_relative_search_space(study, trial)
        if trial.system_attrs.get("fixed_params"):  # what was enqueued is examined once it is complete
            return self._draw(study, trial, relative)
        last: Proposal | None = None
        for _ in range(self._draws):
            params = self._draw(study, trial, relative)
            last = self._space.propose(trial.number, params)
            try:
                self._accepted[trial.number] = self._accept(last)
                return params
            except PassedOverError as reason:
                self.passed_over[reason.kind] += 1
        near = last if self._near and self._evaluations() >= _TRIALS_AT_RANDOM else None
        params, proposal = self._space.find(trial.number, near, self._accept, self.passed_over)
        self._accepted[trial.number] = proposal
        return params

    def _draw(self, study: Study, trial: FrozenTrial, relative: dict[str, BaseDistribution]) -> dict[str, Any]:
        params = self.inner.sample_relative(study, trial, relative)
        for name, distribution in self._space.distributions.items():
            if name not in params:
                params[name] = self.inner.sample_independent(study, trial, name, distribution)
        return params

    def join(self, study: Study, trial: FrozenTrial) -> None:
        """Make a trial whose parameters were given one of the population that is growing.

        Optuna's genetic samplers know only trials that they drew themselves.
        """
        if isinstance(self.inner, BaseGASampler):
            self.inner.get_trial_generation(study, trial)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.inner.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.trial = trial.number
        self.inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self.inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self.inner.reseed_rng()
