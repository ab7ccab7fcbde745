"""Feasible architectures without a sampler: near another, drawn at random, or wherever there are any."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from random import Random

import torch

from dicenas.architecture import Architecture
from dicenas.space import SpaceSpec
from dicenas.strategies.closed_forms import ClosedForms
from dicenas.strategies.feasible import FEASIBLE, CostBook

__all__ = ["Finder"]

_SMALL_SPACE = 500
_NEAR_STEPS = 60
_WALK_STEPS = 300
# A step that fails a slow cost takes a tenth of a second or more; most mutations of an architecture fit into so many.
_SLOW_STEPS_WITHOUT_PROGRESS = 60
_SMALLEST_OF = 100
# Random architectures in a row that are infeasible, or of no use to the caller, before the walk is tried. Those with
# closed forms cost a microsecond, others what their slow costs take.
_BATCHES = (256, 4_096, 65_536)
_RANDOM_TRIES = 200
_SLOW_RANDOM_TRIES = 20


class Finder:
    """Looks for feasible architectures of a space.

    Args:
        space: The space.
        book: Costs and constraints.
        closed_forms: Upper bounds on costs that follow from closed forms, checked for many architectures at once.
        rng: Source of random numbers.
        passed_over: Called with numbers of architectures that were looked at and are infeasible.
    """

    def __init__(
        self,
        space: SpaceSpec,
        book: CostBook,
        closed_forms: ClosedForms,
        rng: Random,
        passed_over: Callable[[int], None],
    ) -> None:
        self._space, self._book, self._rng = space, book, rng
        self._closed_forms = closed_forms
        self._passed_over = passed_over
        self._drawn: Iterator[tuple[int, Architecture]] = iter(())

    def near(self, architecture: Architecture) -> Iterator[Architecture]:
        """Yield feasible architectures a few mutations away."""
        return self._walk(architecture, _NEAR_STEPS)

    def random(self) -> Iterator[Architecture]:
        """Yield feasible architectures as drawing at random until one is feasible would; not for ever."""
        tries = _SLOW_RANDOM_TRIES if self._book.slow else _RANDOM_TRIES
        for architecture in itertools.islice(self._draws(), tries):
            if self._book.violation(architecture) == FEASIBLE:
                yield architecture
            else:
                self._passed_over(1)

    def anywhere(self) -> Iterator[Architecture]:
        """Yield the feasible architectures of a small space, all of them; those met on walks through a large one."""
        if self._space.size <= _SMALL_SPACE:
            for architecture in self._rng.sample(list(self._space.enumerate()), self._space.size):
                if self._book.violation(architecture) == FEASIBLE:
                    yield architecture
        else:
            for start in (self._space.random, self._small):
                yield from self._walk(start(self._rng), _WALK_STEPS, with_start=True)

    def _draws(self) -> Iterator[Architecture]:
        """Yield random architectures that meet the bounds with closed forms; ends where these are too rare."""
        if not self._closed_forms.bounds:
            while True:
                yield self._space.random(self._rng)
        fruitless = 0
        while fruitless < len(_BATCHES):
            for skipped, architecture in self._drawn:
                self._passed_over(skipped)
                fruitless = 0
                yield architecture
            self._drawn = self._batch(_BATCHES[fruitless])
            fruitless += 1

    def _batch(self, count: int) -> Iterator[tuple[int, Architecture]]:
        """Draw rows, and yield each that meets the bounds with the number of those before it that do not."""
        vectorized = self._closed_forms.vectorized
        rows = vectorized.random(count, torch.Generator().manual_seed(self._rng.getrandbits(48)))
        met = self._closed_forms.met(rows).nonzero()[:, 0]
        previous = -1
        for index in met.tolist():
            yield index - previous - 1, vectorized.decode(rows[index : index + 1])[0]
            previous = index

    def _walk(self, start: Architecture, steps: int, with_start: bool = False) -> Iterator[Architecture]:
        """Follow mutations that do not lead away from the constraints."""
        current, distance, fruitless = start, self._book.violation(start), 0
        if distance == FEASIBLE and with_start:
            yield start
        for _ in range(steps):
            candidate = self._space.mutate(current, self._rng)
            violation = self._book.violation(candidate)
            if violation == FEASIBLE:
                yield candidate
            else:
                self._passed_over(1)
                if violation < distance:
                    fruitless = 0
                elif violation[0] <= self._book.slow:
                    fruitless += 1
                    if fruitless == _SLOW_STEPS_WITHOUT_PROGRESS:
                        return
            if violation <= distance:
                current, distance = candidate, violation

    def _small(self, rng: Random) -> Architecture:
        """Return the architecture of the fewest MACs among random ones: its slow costs tend to be low."""
        drawn = [self._space.random(rng) for _ in range(_SMALLEST_OF)]
        return min(drawn, key=lambda architecture: self._space.cost(architecture).macs)
