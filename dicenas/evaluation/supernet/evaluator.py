"""Accuracies read off a supernet instead of trained."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from dicenas.architecture import Architecture
from dicenas.evaluation.data import Data
from dicenas.evaluation.devices import checked_device
from dicenas.evaluation.evaluators import Evaluator, Report
from dicenas.evaluation.recalibrate import recalibrate
from dicenas.evaluation.supernet.network import Supernet
from dicenas.evaluation.supernet.train import SupernetConfig, check_suits, train_supernet
from dicenas.evaluation.training import evaluate
from dicenas.files import read_json, write_json
from dicenas.space import SpaceSpec

__all__ = ["SupernetEvaluator"]

logger = logging.getLogger(__name__)


class SupernetEvaluator(Evaluator):
    """Trains one supernet before the first trial; a network inherits its weights, and its accuracy is theirs.

    A network takes the weights of its architecture, its normalisations are recalibrated on training images, and it is
    measured on the validation images. Accuracies are kept by architecture in the folder, so that none is measured
    twice. They rank architectures; trained alone, a network reaches other ones.

    Args:
        spec: The space.
        data: Images to train and validate on.
        config: The recipe.
        device: Where to train and to evaluate.

    Raises:
        ValueError: The data has other classes than the space, or the device is not there.
    """

    trains_network: ClassVar[bool] = True

    def __init__(
        self,
        spec: SpaceSpec,
        data: Data,
        config: SupernetConfig | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        check_suits(spec, data)
        self._spec = spec
        self._data = data
        self._config = config or SupernetConfig()
        self._device = checked_device(device)
        self._supernet: Supernet | None = None
        self._origin = ""
        self._kept = Path()

    def prepare(self, folder: Path) -> None:
        """Train the supernet, go on with its training, or read it where it is trained.

        Raises:
            TrainingDiverged: The loss became NaN or infinite.
            ValueError: The folder holds the supernet of another space, recipe or dataset, or a damaged one.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._supernet = train_supernet(
            self._spec, self._data, self._config, device=self._device, checkpoint=folder / "supernet.safetensors"
        )
        self._origin = self._digest(self._supernet)
        self._kept = folder / "accuracies"
        self._kept.mkdir(exist_ok=True)

    def __call__(self, architecture: Architecture, net: nn.Module, report: Report) -> Mapping[str, float]:
        """Give a network the supernet's weights, and measure it.

        Returns:
            ``accuracy`` (top-1, 0 to 1) and ``loss`` (mean cross-entropy) on the validation images.

        Raises:
            RuntimeError: There is no supernet yet.
            ValueError: The architecture is not a point of the space, or the network is that of another one.
        """
        if self._supernet is None:
            raise RuntimeError("there is no supernet yet; call prepare(folder) before the first architecture")
        self._supernet.copy_to(net, architecture)
        data = self._data.at_size(architecture.image_size[0])
        recalibrate(net, data, batches=self._config.recalibration_batches, device=self._device)
        # One file an architecture: several processes may evaluate side by side.
        file = self._kept / f"{architecture.hash}.json"
        if (known := self._read(file)) is not None:
            return known
        metrics = evaluate(net, data, device=self._device)
        write_json(file, {"supernet": self._origin, "metrics": metrics})
        return metrics

    def _read(self, file: Path) -> dict[str, float] | None:
        """Return the metrics in a file, ``None`` where they are not those of this supernet."""
        try:
            content = read_json(file)
            if content["supernet"] == self._origin:
                return {name: float(value) for name, value in content["metrics"].items()}
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("%s cannot be used (%s); the architecture is evaluated again", file, error)
        return None

    def _digest(self, supernet: Supernet) -> str:
        """Return what metrics depend on beside the architecture."""
        digest = hashlib.sha256(f"{self._data.digest()} {self._config.recalibration_batches}".encode())
        for name, weight in supernet.weights.items():
            digest.update(name.encode() + weight.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]
