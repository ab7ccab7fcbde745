"""What turns an architecture into metrics, whatever it does for that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, TypeAlias

from torch import nn

from dicenas.architecture import Architecture

__all__ = ["Evaluate", "Evaluator", "Report", "StopEvaluation"]

#: Reports metrics of an evaluation that goes on: the step and what was measured at it. May raise
#: :class:`StopEvaluation`.
Report: TypeAlias = Callable[[int, Mapping[str, float]], None]
#: Evaluates the network of an architecture; returns metrics by name. An :class:`Evaluator` is one.
Evaluate: TypeAlias = Callable[[Architecture, nn.Module, Report], Mapping[str, float]]


class StopEvaluation(Exception):  # noqa: N818, an outcome as much as an error
    """Raised by a :data:`Report` where the trial is not worth going on with; evaluations let it pass.

    What was reported last is the trial's result.
    """


class Evaluator(ABC):
    """Turns architectures into metrics.

    A plain function of an architecture, its network and a :data:`Report` does the same work where nothing has to be
    prepared and no cost is known before.

    Attributes:
        trains_network: Whether the network holds weights that are worth keeping once it was evaluated.
    """

    trains_network: ClassVar[bool] = True

    @property
    def costs(self) -> Mapping[str, Callable[[Architecture], float]]:
        """What is known of an architecture before it is evaluated, by name of the cost.

        ``latency_ms`` among them should be told in a millisecond or less: samplers may ask it of many candidates.
        """
        return {}

    @property
    def suggestions(self) -> Mapping[Architecture, float]:
        """Architectures that may be worth evaluating first, with a score that promises accuracy; more is better.

        Known once the evaluator is prepared.
        """
        return {}

    def prepare(self, folder: Path) -> None:  # noqa: B027, most evaluators have nothing to prepare
        """Do what is done once, before the first trial of a run; called again, go on where it stopped.

        Args:
            folder: Folder of the evaluator's own in the run folder.
        """

    def finish(self, folder: Path) -> None:  # noqa: B027, most evaluators leave nothing
        """Remove what only a trial that was cut off would need: the run has all its trials.

        Several workers may call it, one after the other or at once.

        Args:
            folder: The folder that :meth:`prepare` was given.
        """

    @abstractmethod
    def __call__(self, architecture: Architecture, net: nn.Module, report: Report) -> Mapping[str, float]:
        """Evaluate one architecture.

        Args:
            architecture: The architecture.
            net: Its network with fresh weights; evaluated in place.
            report: Takes what is measured on the way; what it raises ends the evaluation.

        Returns:
            Metrics by name, units in the names.
        """
