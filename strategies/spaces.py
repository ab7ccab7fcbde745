"""The two kinds of space that a study walks: architectures as data, and parameters that mean nothing to us."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from random import Random
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

from dicenas.architecture import Architecture
from dicenas.space import SpaceSpec
from dicenas.strategies.closed_forms import ClosedForms
from dicenas.strategies.costs import InfeasibleConstraintError
from dicenas.strategies.feasible import CostBook, CostError
from dicenas.strategies.finding import Finder
from dicenas.strategies.parameters import active_sample, draw
from dicenas.strategies.trials import Proposal, digest

__all__ = ["ArchitectureSpace", "ParameterSpace", "PassedOverError", "SearchedSpace", "SpaceExhaustedError"]

# Random proposals in a space that is not ours before it counts as exhausted.
_PATIENCE = 200


class SpaceExhaustedError(RuntimeError):
    """No further architecture was found that is new and meets the constraints."""


class PassedOverError(Exception):
    """A proposal is not worth a trial.

    Attributes:
        kind: ``"infeasible"``, ``"duplicate"`` or ``"unmeasured"``.
    """

    def __init__(self, kind: Literal["infeasible", "duplicate", "unmeasured"], reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class SearchedSpace(ABC):
    """A space as parameters of Optuna, and what makes a point of it worth a trial.

    Attributes:
        distributions: Optuna's distribution of each parameter.
        size: Number of distinct points, infinite where there is no end of them.
        fingerprint: Digest that equal spaces share.
    """

    distributions: dict[str, BaseDistribution]
    size: float
    fingerprint: str

    @abstractmethod
    def propose(self, number: int, params: Mapping[str, Any], costs: Mapping[str, float] | None = None) -> Proposal:
        """Return what parameters stand for, without knowing its costs unless they are given."""

    def examine(self, proposal: Proposal) -> Proposal:
        """Return a proposal with its costs.

        Raises:
            PassedOverError: It is infeasible, or a cost could not be determined.
        """
        return proposal

    @abstractmethod
    def find(
        self, number: int, near: Proposal | None, accept: Callable[[Proposal], Proposal], passed_over: Counter[str]
    ) -> tuple[dict[str, Any], Proposal]:
        """Return the parameters of a point that is new and feasible, and the point.

        Args:
            number: Number of the trial.
            near: Where to look first.
            accept: Returns a proposal with its costs, or raises :class:`PassedOverError`.
            passed_over: Counts what was looked at and is not.

        Raises:
            InfeasibleConstraintError: Nothing in the space was found to meet the constraints.
            SpaceExhaustedError: Nothing further was found.
        """


class ArchitectureSpace(SearchedSpace):
    """A :class:`~dicenas.space.SpaceSpec`.

    Args:
        space: The space.
        book: Costs and constraints.
        closed_forms: Bounds on costs that follow from closed forms.
        rng: Source of random numbers.
    """

    def __init__(
        self,
        space: SpaceSpec,
        book: CostBook,
        closed_forms: ClosedForms,
        rng: Random,
    ) -> None:
        self.distributions = {choice.label: CategoricalDistribution(choice.values) for choice in space.choices}
        self.size = space.size
        self.fingerprint = space.fingerprint
        self.space, self.closed_forms = space, closed_forms
        self._book, self._rng = book, rng
        self._infeasible = 0
        self._finder = Finder(space, book, closed_forms, rng, self._count_infeasible)

    def _count_infeasible(self, count: int) -> None:
        self._infeasible += count

    def propose(self, number: int, params: Mapping[str, Any], costs: Mapping[str, float] | None = None) -> Proposal:
        sample = active_sample(self.space, params)
        return self._proposal(number, sample, self.space.architecture(sample), costs or {})

    def params(self, architecture: Architecture) -> dict[str, Any]:
        """Return parameters that stand for an architecture; what is inactive in it is drawn.

        Raises:
            ValueError: It is not a point of the space.
        """
        sample = self.space.sample(architecture)
        return {
            choice.label: sample[choice.label] if choice.label in sample else self._rng.choice(choice.values)
            for choice in self.space.choices
        }

    def examine(self, proposal: Proposal) -> Proposal:
        assert proposal.architecture is not None
        try:
            costs, violated = self._book.costs(proposal.architecture)
        except CostError as error:
            raise PassedOverError("unmeasured", str(error)) from error
        if violated is not None:
            bound = self._book.constraints[violated]
            raise PassedOverError("infeasible", f"{violated} is {costs[violated]:,.10g}, above the bound {bound:,.10g}")
        return self._proposal(proposal.number, proposal.sample, proposal.architecture, costs)

    def within_closed_forms(self, architectures: Iterable[Architecture]) -> list[Architecture]:
        """Return those architectures that meet the bounds on costs that follow from closed forms."""
        given = list(architectures)
        met = self.closed_forms.met(self.closed_forms.vectorized.encode(given)) if given else ()
        return list(itertools.compress(given, met))

    def knows(self, cost: str) -> bool:
        """Return whether there is a cost of this name."""
        return cost in self._book.functions

    def costs(self, name: str, architectures: Iterable[Architecture]) -> dict[Architecture, float]:
        """Return one cost of several architectures, NaN where it could not be determined."""
        return {architecture: self._book.cost(name, architecture) for architecture in architectures}

    def know(self, digest: str, costs: Mapping[str, float]) -> None:
        """Take up costs that were computed in an earlier session."""
        self._book.known[digest] = dict(costs)

    def find(
        self, number: int, near: Proposal | None, accept: Callable[[Proposal], Proposal], passed_over: Counter[str]
    ) -> tuple[dict[str, Any], Proposal]:
        found_feasible = False
        try:
            for architecture in self._candidates(near):
                found_feasible = True
                params = self.params(architecture)
                try:
                    return params, accept(self.propose(number, params))
                except PassedOverError as reason:
                    passed_over[reason.kind] += 1
        finally:
            passed_over["infeasible"] += self._infeasible
            self._infeasible = 0
        if found_feasible:
            constrained = " and meets the constraints" if self._book.constraints else ""
            raise SpaceExhaustedError(f"no further architecture was found that is new{constrained}")
        raise InfeasibleConstraintError(
            f"no architecture was found that meets all constraints: {self._book.smallest_seen()}"
        )

    def _candidates(self, near: Proposal | None) -> Iterator[Architecture]:
        if near is not None and near.architecture is not None:
            yield from self._finder.near(near.architecture)
        yield from self._finder.random()
        yield from self._finder.anywhere()

    @staticmethod
    def _proposal(
        number: int, sample: Mapping[str, Any], architecture: Architecture, costs: Mapping[str, float]
    ) -> Proposal:
        return Proposal(number, sample, architecture.hash, architecture, dict(costs))


class ParameterSpace(SearchedSpace):
    """Optuna's distributions by label, for a space of somebody else.

    Args:
        distributions: The distributions.
        rng: Source of random numbers.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution], rng: Random) -> None:
        self.distributions = dict(distributions)
        self.size = math.prod(
            len(d.choices) if isinstance(d, CategoricalDistribution) else math.inf for d in distributions.values()
        )
        self.fingerprint = digest(
            {label: optuna.distributions.distribution_to_json(d) for label, d in distributions.items()}
        )
        self._rng = rng

    def propose(self, number: int, params: Mapping[str, Any], costs: Mapping[str, float] | None = None) -> Proposal:
        return Proposal(number, dict(params), digest(params))

    def find(
        self, number: int, near: Proposal | None, accept: Callable[[Proposal], Proposal], passed_over: Counter[str]
    ) -> tuple[dict[str, Any], Proposal]:
        for _ in range(_PATIENCE):
            params = {label: draw(distribution, self._rng) for label, distribution in self.distributions.items()}
            try:
                return params, accept(self.propose(number, params))
            except PassedOverError as reason:
                passed_over[reason.kind] += 1
        raise SpaceExhaustedError(f"the last {_PATIENCE} proposals were all evaluated before")
