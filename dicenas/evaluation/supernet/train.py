"""Training of a supernet: one random architecture a step, or the sandwich rule."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dicenas.architecture import Architecture
from dicenas.cost.runtimes import using_threads
from dicenas.evaluation.data import Data
from dicenas.evaluation.devices import checked_device, placed, random_state
from dicenas.evaluation.images import resize_images
from dicenas.evaluation.supernet.checkpoint import TrainingState, read_checkpoint, write_checkpoint
from dicenas.evaluation.supernet.network import Supernet
from dicenas.evaluation.trainer import TrainConfig, Trainer
from dicenas.space import SpaceSpec
from dicenas.spelling import did_you_mean

__all__ = ["SAMPLINGS", "SupernetConfig", "check_suits", "train_supernet"]

logger = logging.getLogger(__name__)

SAMPLINGS = ("uniform", "sandwich")

#: Architectures of a step of the sandwich rule beside the largest and the smallest.
_RANDOM_IN_SANDWICH = 2


@dataclass(frozen=True)
class SupernetConfig(TrainConfig):
    """Recipe of a supernet's training, and how accuracies are read off it.

    A step of ``sandwich`` costs about four of ``uniform``. Fields of :class:`~dicenas.evaluation.TrainConfig` mean the
    same here.

    Attributes:
        epochs: Passes over the training images, for all architectures together.
        sampling: ``"uniform"``: each step trains one architecture, drawn uniformly (Single Path One-Shot, arXiv
            1904.00420). ``"sandwich"``: the widest and deepest, the narrowest and shallowest, and two random ones, with
            random ops (Universally Slimmable Networks, arXiv 1903.05134).
        recalibration_batches: Batches of 100 training images over which a network's normalisations are averaged before
            it is evaluated.
        checkpoint_seconds: Time between checkpoints, in seconds.

    Raises:
        ValueError: Values out of range, one line for each.
    """

    epochs: int = 30
    sampling: str = "uniform"
    recalibration_batches: int = 10
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        problems = []
        if self.sampling not in SAMPLINGS:
            hint = did_you_mean(str(self.sampling), SAMPLINGS)
            problems.append(f"sampling: {self.sampling!r}, expected {' or '.join(SAMPLINGS)}{hint}")
        batches: object = self.recalibration_batches
        if not isinstance(batches, int) or isinstance(batches, bool) or batches < 1:
            problems.append(f"recalibration_batches: {batches!r}, expected a whole number, 1 or more")
        seconds: object = self.checkpoint_seconds
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds < math.inf:
            problems.append(f"checkpoint_seconds: {seconds!r}, expected a number, 0 or more")
        if problems:
            raise ValueError("\n".join(problems))


def train_supernet(
    spec: SpaceSpec,
    data: Data,
    config: SupernetConfig | None = None,
    *,
    device: str | torch.device = "cpu",
    checkpoint: Path | None = None,
) -> Supernet:
    """Train a supernet, or go on where a training was interrupted.

    The same space, data and config give the same weights to the bit on the CPU, interrupted or not.

    Args:
        spec: The space.
        data: What to train on; each architecture sees images of its native size.
        config: The recipe.
        device: Where to train.
        checkpoint: File that the state of the training is written to from time to time and at the end, and taken up
            from where it exists. A whole file appears, or the previous one stays.

    Returns:
        The trained supernet, on the device.

    Raises:
        TrainingDiverged: The loss became NaN or infinite.
        ValueError: The data does not suit the space, the device is not there, or the checkpoint is damaged or that of
            another space, recipe or dataset.
    """
    config = config or SupernetConfig()
    check_suits(spec, data)
    target = checked_device(device)
    with using_threads(config.threads), random_state(config.seed, target):
        supernet = Supernet(spec)
        with placed(supernet, target):
            trainer = _SupernetTrainer(supernet, data.at_size(max(spec.resolutions)), config, target)
            trainer.run(checkpoint)
    return supernet


def check_suits(spec: SpaceSpec, data: Data) -> None:
    """Raise ``ValueError`` unless networks of a space take the images of a dataset and tell its classes."""
    if spec.num_classes != data.num_classes:
        raise ValueError(f"the space has {spec.num_classes} classes, the data {data.num_classes}")
    if spec.in_channels != 3:
        raise ValueError(f"the space takes images of {spec.in_channels} channels, the data has 3")


class _SupernetTrainer(Trainer):
    """Training of a supernet, from any step on."""

    net: Supernet
    config: SupernetConfig

    _order: Tensor
    """Positions of the images of the current epoch."""

    def __init__(self, net: Supernet, data: Data, config: SupernetConfig, device: torch.device) -> None:
        super().__init__(net, data, config, device)
        # A step trains some of the weights, and torch's fused SGD wants a momentum for all of them or for none.
        self._momenta = {name: torch.zeros_like(weight) for name, weight in net.weights.items()}
        for name, weight in net.weights.items():
            self.optimizer.state[weight] = {"momentum_buffer": self._momenta[name]}

    def run(self, checkpoint: Path | None) -> None:
        """Train to the end, from where the checkpoint stands."""
        training = self._description() if checkpoint else {}
        if checkpoint is not None and checkpoint.exists():
            self._restore(read_checkpoint(checkpoint, training), checkpoint)
        total = self.config.epochs * self.steps_per_epoch
        if self.step < total:
            where = "begins" if not self.step else f"goes on behind step {self.step}"
            logger.info("training of the supernet %s: %d steps of %d images", where, total, self.batch)
        saved = time.monotonic()
        with tqdm(total=total, initial=self.step, desc="supernet", unit="step", leave=False, disable=None) as bar:
            while self.step < total:
                done = self.step % self.steps_per_epoch
                if not done:
                    self._order = self.draw_order()
                for loss in self.steps(self._order[done * self.batch :]):
                    bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                    bar.update()
                    due = time.monotonic() - saved >= self.config.checkpoint_seconds
                    if checkpoint is not None and (due or self.step == total):
                        write_checkpoint(checkpoint, training, self._state())
                        saved = time.monotonic()

    def _description(self) -> dict[str, Any]:
        """Return what the result depends on, as plain data."""
        recipe = asdict(self.config)
        for name in ("threads", "recalibration_batches", "checkpoint_seconds"):
            del recipe[name]
        return {"space": self.net.spec.to_dict(), "recipe": recipe, "data": self.data.digest()}

    def _state(self) -> TrainingState:
        return TrainingState(
            self.step,
            dict(self.net.weights.items()),
            self._momenta,
            self._order,
            self.generator.get_state(),
            self.scaler.state_dict(),
        )

    def _restore(self, state: TrainingState, path: Path) -> None:
        weights = dict(self.net.weights.items())
        if {name: w.shape for name, w in weights.items()} != {name: w.shape for name, w in state.weights.items()}:
            raise ValueError(f"{path} is of another version of the ops: its weights have other names or shapes")
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(state.weights[name])
                self._momenta[name].copy_(state.momenta[name])
        self.step = state.step
        self._order = state.order
        self.generator.set_state(state.generator)
        self.scaler.load_state_dict(dict(state.scaler))

    def add_gradients(self, images: Tensor, labels: Tensor) -> float:
        # What is random in a step follows from its number: a training that goes on needs no generator's state for it.
        rng = Random(f"{self.config.seed} {self.step}")
        torch.manual_seed(rng.getrandbits(63))
        architectures = list(self._drawn(rng))
        share = 1 / len(architectures)
        loss = 0.0
        for architecture in architectures:
            forward = partial(self.net, architecture=architecture)
            loss += share * self.add_gradients_of(
                forward, resize_images(images, architecture.image_size[0]), labels, share
            )
        return loss

    def _drawn(self, rng: Random) -> Iterator[Architecture]:
        """Draw the architectures of a step."""
        spec = self.net.spec
        if self.config.sampling == "uniform":
            yield spec.random(rng)
            return
        sizes: list[Callable[[Sequence[Any]], Any]] = [max, min, *(rng.choice,) * _RANDOM_IN_SANDWICH]
        for size in sizes:
            sample = {}
            for choice in spec.choices:
                sized = choice.label == "width" or choice.label.endswith("_depth")
                sample[choice.label] = size(choice.values) if sized else rng.choice(choice.values)
            yield spec.architecture(sample)
