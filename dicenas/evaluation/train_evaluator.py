"""Short training as an evaluator, from fresh weights or from those of the nearest network that is trained already."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dicenas import __version__
from dicenas.architecture import Architecture
from dicenas.evaluation.data import Data
from dicenas.evaluation.evaluators import Evaluator, Report
from dicenas.evaluation.half_trained import CHECKPOINT_SECONDS, HalfTrained
from dicenas.evaluation.trainer import TrainConfig
from dicenas.evaluation.training import train_and_evaluate
from dicenas.runs import RunFolder, TrialRecord

__all__ = ["TrainEvaluator", "TrainEvaluatorConfig", "differing_choices", "inherit_weights"]

logger = logging.getLogger(__name__)

_HALF_TRAINED = "half_trained"


@dataclass(frozen=True)
class TrainEvaluatorConfig(TrainConfig):
    """Short training of each architecture.

    Attributes:
        inherit: Whether training starts from the weights of the nearest finished network of the run, where names
            and shapes agree. Accuracies then depend on which networks came before.
    """

    inherit: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.inherit, bool):
            raise ValueError(f"inherit: {self.inherit!r}, expected true or false")


class TrainEvaluator(Evaluator):
    """Trains a network for some epochs; its accuracy on the validation images is the architecture's.

    Each epoch is reported with ``accuracy``, ``loss`` and ``train_loss``. In a run folder, trainings that take long
    leave checkpoints, from which the next attempt goes on where a process was killed.

    Args:
        data: Images to train and validate on.
        config: The recipe.
        device: Where to train.
        parents: Run folder with the networks whose weights trainings start from; without one all start afresh.
            Networks of another number of classes, and files of weights that are damaged, are passed over.
        checkpoint_seconds: Least seconds between two checkpoints of a training.
    """

    trains_network = True

    def __init__(
        self,
        data: Data,
        config: TrainConfig | None = None,
        device: str | torch.device = "cpu",
        *,
        parents: RunFolder | None = None,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
    ) -> None:
        self._data = data
        self._config = config or TrainConfig()
        self._device = device
        self._parents = parents
        self._checkpoint_seconds = checkpoint_seconds
        self._checkpoints: Path | None = None
        self._digests: dict[int, str] = {}

    def prepare(self, folder: Path) -> None:
        """Keep checkpoints in the folder."""
        self._checkpoints = folder / _HALF_TRAINED

    def finish(self, folder: Path) -> None:
        """Remove what is left of checkpoints: those of trials that a limit ended."""
        shutil.rmtree(folder / _HALF_TRAINED, ignore_errors=True)

    def __call__(self, architecture: Architecture, net: nn.Module, report: Report) -> Mapping[str, float]:
        """Train the network and measure it.

        Returns:
            What :func:`train_and_evaluate` gives; with ``parents`` also ``inherited``, the share of the parameters
            that training started from, 0 where there was no parent.

        Raises:
            TrainingDiverged: The loss became NaN or infinite.
            ValueError: The device is not there, or the network does not suit the data.
        """
        data = self._data.at_size(architecture.image_size[0])
        half_trained = HalfTrained(
            None if self._checkpoints is None else self._checkpoints / f"{architecture.hash}.pt",
            lambda: self._training(architecture, data),
            seconds=self._checkpoint_seconds,
        )
        if half_trained.state is None and self._parents is not None:
            half_trained.notes = {"inherited": self._inherit(architecture, net, self._parents)}
        try:
            metrics = train_and_evaluate(
                net, data, self._config, device=self._device, report=report, half_trained=half_trained
            )
        except (KeyboardInterrupt, OSError):  # Ctrl-C, a lost database: no end of the trial
            raise
        except BaseException:
            half_trained.discard()
            raise
        half_trained.discard()
        return {**metrics, **half_trained.notes}

    def _training(self, architecture: Architecture, data: Data) -> dict[str, Any]:
        """Return all that decides the result of a training but for the machine and where its weights start."""
        if data.image_size not in self._digests:
            self._digests[data.image_size] = data.digest()
        return {
            "architecture": architecture.to_dict(),
            "recipe": dataclasses.asdict(self._config),
            "data": self._digests[data.image_size],
            "dicenas": __version__,
        }

    def _inherit(self, architecture: Architecture, net: nn.Module, parents: RunFolder) -> float:
        for parent in _nearest_first(architecture, parents):
            try:
                state_dict = parents.load_network(parent.number).state_dict()
            except ValueError as error:
                logger.warning("trial %d has no heirs: %s", parent.number, error)
                continue
            share = inherit_weights(net, state_dict)
            logger.info("%s starts from %.0f %% of trial %d", architecture.hash, 100 * share, parent.number)
            return share
        return 0.0


def _nearest_first(architecture: Architecture, run: RunFolder) -> list[TrialRecord]:
    """Return the trials with weights, those that differ in the fewest choices first, of equals the newest."""
    trained = [
        trial
        for trial in run.trials()
        if trial.state == "complete"
        and trial.architecture.backbone == architecture.backbone
        and trial.architecture.num_classes == architecture.num_classes
        and run.weights_path(trial.number).is_file()
    ]
    return sorted(trained, key=lambda trial: (differing_choices(trial.architecture, architecture), -trial.number))


def differing_choices(a: Architecture, b: Architecture) -> int:
    """Return in how many places two architectures differ: width, stem, image size, and block by block.

    A block that only one of them has is a place where they differ.
    """
    whole = sum(getattr(a, name) != getattr(b, name) for name in ("backbone", "width", "stem", "image_size"))
    return whole + sum(
        ours != theirs
        for stages in itertools.zip_longest(a.stages, b.stages, fillvalue=())
        for ours, theirs in itertools.zip_longest(*stages)
    )


def inherit_weights(net: nn.Module, state_dict: Mapping[str, Tensor]) -> float:
    """Copy weights and statistics into a network where names and shapes agree; the rest stays as it is.

    Returns:
        Share of the network's parameters that were copied, 0 to 1.
    """
    own = net.state_dict()
    copied = {name: tensor for name, tensor in state_dict.items() if name in own and tensor.shape == own[name].shape}
    net.load_state_dict(copied, strict=False)
    parameters = {name: parameter.numel() for name, parameter in net.named_parameters()}
    return sum(count for name, count in parameters.items() if name in copied) / max(1, sum(parameters.values()))
