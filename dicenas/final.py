"""The final training of a search: its best architectures, trained for real one after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tqdm import tqdm

from dicenas.architecture import Architecture
from dicenas.config import FinalConfig
from dicenas.evaluation import DataConfig, TrainingDiverged
from dicenas.events import EventLog, finite
from dicenas.pareto import Direction
from dicenas.run_session import differences
from dicenas.runs import RunFolder, TrialRecord
from dicenas.space import SpaceSpec
from dicenas.training import TrainFolder, TrainResult, check_training, finished_training, train

__all__ = ["FinalTraining", "FinalTrial", "read_final_trials"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinalTrial:
    """A trial of a search that is trained for real.

    Attributes:
        trial: The trial, as it was searched.
        folder: The folder of its training.
        result: What the training came to; ``None`` where it is not at its end.
    """

    trial: TrialRecord
    folder: TrainFolder
    result: TrainResult | None

    def __str__(self) -> str:
        if self.result is not None:
            return f"trial {self.trial.number}, accuracy {self.result.metrics['accuracy']:.4g}"
        recipe = (self.folder.read_identity() or {}).get("recipe", {})
        return f"trial {self.trial.number}, {self.folder.epochs} of {recipe.get('epochs')} epochs"


def read_final_trials(run: RunFolder) -> list[FinalTrial]:
    """Return the trials of a run whose final training has begun, in the order of their final accuracies.

    Raises:
        ValueError: A file is damaged.
    """
    found = []
    for number in run.trial_numbers():
        folder = _folder(run, number)
        if folder.identity_path.is_file():
            found.append(FinalTrial(run.read_trial(number), folder, folder.read_result()))
    return sorted(found, key=lambda final: -1.0 if final.result is None else -1.0 - final.result.metrics["accuracy"])


class FinalTraining:
    """Trains the best architectures of a search to the end, each in ``final/NUMBER`` of the run folder.

    Called again, it goes on: what is finished is not trained again, and what was cut off goes on from its checkpoint.

    Args:
        run: The run folder.
        config: What is trained, and how.
        data: What it is trained on, see :func:`dicenas.training.open_data`.
        objectives: Direction of each objective of the search.
        formats: Formats that each network is exported in.
        threads: CPU threads of the training; those set in torch where it is None.
        drawing: Draws an architecture for its exported folder, see :func:`dicenas.training.train`.
    """

    def __init__(
        self,
        run: RunFolder,
        config: FinalConfig,
        data: str | DataConfig,
        objectives: Mapping[str, Direction],
        formats: Sequence[str],
        threads: int | None = None,
        drawing: Callable[[Architecture], str] | None = None,
    ) -> None:
        self._run = run
        self._config = config
        self._data = data
        self._objectives = objectives
        self._formats = tuple(formats)
        self._threads = threads
        self._drawing = drawing
        self._events = EventLog(run.events_path, worker=None)
        self._recipe = config.training

    def check(self, space: SpaceSpec) -> None:
        """Check, before a search begins, that its networks could be trained, and that what is there was trained so.

        Args:
            space: The space that is searched.

        Raises:
            ValueError: They could not, or were trained otherwise; the message says why.
        """
        found: dict[tuple[int, int], dict[str, Any]] = {}
        probe = space.random(Random(0))
        for size in space.resolutions:
            architecture = probe.replace(image_size=size)
            try:
                data = check_training(architecture, self._data, self._recipe)
            except ValueError as error:
                raise ValueError(f"final: {error}") from error
            if data.num_classes != space.num_classes:
                raise ValueError(
                    f"final.data has {data.num_classes} classes, but the networks of the search tell "
                    f"{space.num_classes} apart; dicenas train fits a network to other data"
                )
            found[architecture.image_size] = data.identity
        for final in read_final_trials(self._run):
            there = final.folder.read_identity() or {}
            now = {"recipe": self._recipe.to_dict(), "data": found.get(final.trial.architecture.image_size)}
            lines = differences({key: there.get(key) for key in now}, now)
            if lines:
                raise ValueError(
                    f"{final.folder.path} was trained otherwise; set `final` as it was, or remove the folder to train "
                    "anew:\n" + "\n".join(lines)
                )

    def run(self, on_trained: Callable[[], object]) -> list[FinalTrial]:
        """Train what is not trained yet. A training that diverges is left, with a warning.

        Args:
            on_trained: Called each time that one is finished.

        Returns:
            What was to be trained, finished or not.

        Raises:
            FileNotFoundError: There is no trial of the number that is to be trained.
            ValueError: The data cannot be used, or a folder is of another training.
        """
        chosen = self._chosen()
        wanted = self._config.train
        if isinstance(wanted, str) and wanted != f"top{len(chosen)}" and wanted != "best":
            logger.warning("final.train: %s, but the front holds %d of them", wanted, len(chosen))
        for place, trial in enumerate(chosen, 1):
            if self._finished(trial) is None:
                self._train(trial, f"final training {place} of {len(chosen)}, trial {trial.number}")
                on_trained()
        return [FinalTrial(trial, folder := _folder(self._run, trial.number), folder.read_result()) for trial in chosen]

    def _chosen(self) -> list[TrialRecord]:
        wanted = self._config.train
        if isinstance(wanted, int):
            return [self._run.read_trial(wanted)]
        front = self._run.front(self._objectives)
        if wanted == "best":
            return front[:1]
        if all("accuracy" in trial.metrics for trial in front):
            front.sort(key=lambda trial: -trial.metrics["accuracy"])
        return front[: int(wanted.removeprefix("top"))]

    def _finished(self, trial: TrialRecord) -> TrainResult | None:
        return finished_training(_folder(self._run, trial.number), self._formats)

    def _train(self, trial: TrialRecord, title: str) -> None:
        folder, events = _folder(self._run, trial.number), self._events
        events.write("final_started", trial=trial.number, epoch=folder.epochs, epochs=self._recipe.epochs)
        with tqdm(total=self._recipe.epochs, initial=folder.epochs, desc=title, unit="epoch") as bar:

            def show(epoch: int, metrics: Mapping[str, float]) -> None:
                said = f"accuracy {metrics['accuracy']:.2%}, loss {metrics['loss']:.4g}"
                logger.info("%s, epoch %d: %s", title, epoch, said)
                events.write("final_step", trial=trial.number, step=epoch, metrics=finite(metrics))
                bar.update(epoch - bar.n)
                bar.set_postfix_str(said)

            try:
                result = train(
                    trial.architecture,
                    self._data,
                    self._recipe,
                    folder.path,
                    threads=self._threads,
                    formats=self._formats,
                    drawing=self._drawing,
                    report=show,
                )
            except TrainingDiverged as error:
                logger.warning("%s: %s", title, error)
                events.write("final_ended", trial=trial.number, state="failed", metrics={}, error=str(error))
            except BaseException as error:  # Ctrl-C too: a later call goes on
                reason = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
                events.write("final_interrupted", trial=trial.number, reason=reason)
                raise
            else:
                reached = finite(result.metrics)
                events.write("final_ended", trial=trial.number, state="complete", metrics=reached, error=None)


def _folder(run: RunFolder, number: int) -> TrainFolder:
    return TrainFolder(run.path / "final" / str(number))
