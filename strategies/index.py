"""The trials of a study by what they evaluate: read as they come, and ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna import Study
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

__all__ = ["HASH", "PASSED_OVER", "ProposalCounts", "TrialIndex", "holds", "is_evaluation"]

# User attributes of trials.
HASH = "architecture_hash"
PASSED_OVER = "passed_over"
INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class ProposalCounts:
    """What became of the proposals of a study.

    Attributes:
        evaluated: Proposals that were evaluated, failed ones too.
        infeasible: Proposals that broke a constraint and were drawn again.
        duplicate: Proposals that were evaluated before, or are being evaluated, and were drawn again.
        unmeasured: Proposals of which a cost could not be determined.
    """

    evaluated: int = 0
    infeasible: int = 0
    duplicate: int = 0
    unmeasured: int = 0

    def __str__(self) -> str:
        shown = f"{self.evaluated} evaluated; drawn again: {self.infeasible} infeasible, {self.duplicate} known already"
        return f"{shown}, {self.unmeasured} without a cost" if self.unmeasured else shown


def is_evaluation(trial: FrozenTrial) -> bool:
    """Return whether a finished trial stands for an evaluation; other trials are leftovers."""
    attrs = trial.user_attrs
    return trial.state == TrialState.COMPLETE or ("error" in attrs and INTERRUPTED not in attrs)


def holds(trial: FrozenTrial) -> str | None:
    """Return the hash of what a trial evaluated, is evaluating or is to evaluate; None where there is no such thing."""
    if not (is_evaluation(trial) if trial.state.is_finished() else INTERRUPTED not in trial.user_attrs):
        return None
    digest: str | None = trial.user_attrs.get(HASH)
    return digest


class TrialIndex:
    """Trials of a study by what they evaluate; a look at it costs what is new, not what is there.

    Args:
        study: The study; other processes may add to it.
        storage: Its storage.
    """

    def __init__(self, study: Study, storage: BaseStorage) -> None:
        self._study = study
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._seen = 0
        self._open: set[int] = set()
        self._waiting: set[int] = set()
        self._held: dict[int, str] = {}
        self._holders: dict[str, set[int]] = {}
        self._evaluations: dict[int, FrozenTrial] = {}
        self._passed_over: Counter[str] = Counter()

    def refresh(self) -> None:
        """Read what changed."""
        trials = self._study.get_trials(deepcopy=False)
        for number in [*self._open, *range(self._seen, len(trials))]:
            self._read(trials[number])
        self._seen = len(trials)

    def _read(self, trial: FrozenTrial) -> None:
        number, digest = trial.number, holds(trial)
        before = self._held.pop(number, None)
        if before is not None and before != digest:
            self._holders[before].discard(number)
        if digest is not None:
            self._held[number] = digest
            self._holders.setdefault(digest, set()).add(number)
        if not trial.state.is_finished():
            self._open.add(number)
            (self._waiting.add if trial.state == TrialState.WAITING else self._waiting.discard)(number)
            return
        self._open.discard(number)
        self._waiting.discard(number)
        if is_evaluation(trial):
            self._evaluations[number] = trial
        self._passed_over.update(trial.user_attrs.get(PASSED_OVER, {}))

    def holders(self, digest: str) -> set[int]:
        """Return the numbers of the trials that hold a hash."""
        return self._holders.get(digest, set())

    @property
    def held(self) -> int:
        """Number of trials that hold a hash."""
        return len(self._held)

    @property
    def waiting(self) -> bool:
        """Whether any trial is enqueued."""
        return bool(self._waiting)

    @property
    def evaluations(self) -> list[FrozenTrial]:
        """The evaluations that ended, in the order of their numbers."""
        return [self._evaluations[number] for number in sorted(self._evaluations)]

    @property
    def finished(self) -> int:
        """Number of evaluations that ended."""
        return len(self._evaluations)

    @property
    def counts(self) -> ProposalCounts:
        """What became of the proposals; those of evaluations that go on are not counted yet."""
        return ProposalCounts(evaluated=self.finished, **self._passed_over)

    def enqueue(self, params: Mapping[str, Any], digest: str) -> None:
        """Have parameters evaluated before anything that is proposed; their hash is held from now on."""
        self._study.enqueue_trial(dict(params), user_attrs={HASH: digest})

    def set_user_attr(self, number: int, name: str, value: object) -> bool:
        """Set an attribute of a trial; returns whether it could be set, that is whether the trial goes on."""
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        try:
            self._storage.set_trial_user_attr(trial_id, name, value)
        except UpdateFinishedTrialError:
            return False
        return True

    def end(self, number: int, attrs: Mapping[str, object], values: Sequence[float] | None = None) -> None:
        """End a trial with its values, or as failed; one that has ended, here or elsewhere, stays as it is."""
        if all(self.set_user_attr(number, name, value) for name, value in attrs.items()):
            state = None if values is not None else TrialState.FAIL
            self._study.tell(number, values, state=state, skip_if_finished=True)
