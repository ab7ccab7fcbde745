"""The recipe of a short training, and its steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dicenas.evaluation.augment import random_shift_flip
from dicenas.evaluation.data import Data
from dicenas.evaluation.devices import amp_dtype, mixed_precision

__all__ = ["TrainConfig", "Trainer", "TrainingDiverged", "class_logits", "decay_groups"]

_WARMUP = 0.1  # share of the steps in which the learning rate rises


class TrainingDiverged(RuntimeError):  # noqa: N818, an outcome of a trial as much as an error
    """The loss became NaN or infinite.

    Args:
        step: Number of optimizer steps done before it did.
        loss: The loss.
    """

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"training diverged: the loss is {loss} after {step} steps; lower the learning rate")
        self.step = step
        self.loss = loss

    def __reduce__(self) -> tuple[type[TrainingDiverged], tuple[int, float]]:
        # Trials run in processes of their own; exceptions are rebuilt from their arguments.
        return type(self), (self.step, self.loss)


@dataclass(frozen=True)
class TrainConfig:
    """Recipe of a short training: SGD with Nesterov momentum, warm-up and cosine decay of the learning rate.

    Attributes:
        epochs: Passes over the training images.
        batch: Images in a step. What is left of an epoch after the last whole batch is passed over.
        learning_rate: Highest learning rate, reached after a tenth of the steps.
        weight_decay: Weight decay of the weights of convolutions and linear layers; biases, normalization and
            activation parameters have none.
        momentum: Momentum.
        max_grad_norm: Norm that the gradient of all parameters together is clipped to. Without it some
            architectures of a space diverge at a learning rate that suits the others.
        label_smoothing: Share of the target that is spread over all classes.
        seed: Fixes the order of the images, their augmentation and dropout. The initial weights are the
            caller's.
        threads: CPU threads while training; those set in torch where it is None. Results can differ in the
            last bits between numbers of threads.
        augment: Whether images are shifted by up to an eighth of their size and mirrored, where the
            dataset allows it.

    Raises:
        ValueError: Values out of range, one line for each.
    """

    epochs: int = 3
    batch: int = 64
    learning_rate: float = 0.05
    weight_decay: float = 1e-4
    momentum: float = 0.9
    max_grad_norm: float = 5.0
    label_smoothing: float = 0.0
    seed: int = 0
    threads: int | None = None
    augment: bool = True

    def __post_init__(self) -> None:
        problems = []
        # Batch normalization needs two images or more.
        for name, lowest in (("epochs", 1), ("batch", 2), ("seed", 0), ("threads", 1)):
            value: Any = getattr(self, name)
            if name == "threads" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
                problems.append(f"{name}: {value!r}, expected a whole number, {lowest} or more")
        for name in ("learning_rate", "max_grad_norm"):
            value = getattr(self, name)
            if not _is_finite(value) or value <= 0:
                problems.append(f"{name}: {value!r}, expected a number above 0")
        if not _is_finite(self.weight_decay) or self.weight_decay < 0:
            problems.append(f"weight_decay: {self.weight_decay!r}, expected a number, 0 or more")
        # Nesterov's form does not exist without momentum.
        if not _is_finite(self.momentum) or not 0 < self.momentum < 1:
            problems.append(f"momentum: {self.momentum!r}, expected a number above 0 and below 1")
        if not _is_finite(self.label_smoothing) or not 0 <= self.label_smoothing < 1:
            problems.append(f"label_smoothing: {self.label_smoothing!r}, expected a number from 0 to below 1")
        if not isinstance(self.augment, bool):
            problems.append(f"augment: {self.augment!r}, expected true or false")
        if problems:
            raise ValueError("\n".join(problems))


class Trainer:
    """The state of one training, and its steps.

    Args:
        net: What is trained, on its device; only parameters that a step gave a gradient are changed by it.
        data: What to train on.
        config: The recipe.
        device: Where the network is.
    """

    def __init__(self, net: nn.Module, data: Data, config: TrainConfig, device: torch.device) -> None:
        self.net = net
        self.data = data
        self.config = config
        self.device = device
        self.batch = min(config.batch, len(data.train))
        self.steps_per_epoch = len(data.train) // self.batch
        self.step = 0
        self.generator = torch.Generator().manual_seed(config.seed)
        groups = decay_groups(net, config.weight_decay)
        self.optimizer = torch.optim.SGD(groups, config.learning_rate, config.momentum, nesterov=True, fused=True)
        self.scaler = torch.amp.GradScaler("cuda", enabled=amp_dtype(device) is torch.float16)

    def state_dict(self) -> dict[str, Any]:
        """Return all that another trainer needs to go on from here, the global random state included."""
        on_cuda = self.device.type == "cuda"
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "generator": self.generator.get_state(),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self.device) if on_cuda else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where :meth:`state_dict` was."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # none was needed on a device without float16
            self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["random"])
        if state["cuda_random"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_random"], self.device)

    def run_epoch(self) -> float:
        """Train on every image once and return the mean loss."""
        return sum(self.steps(self.draw_order())) / self.steps_per_epoch

    def draw_order(self) -> Tensor:
        """Draw the order of an epoch's images, without those that fill no whole batch."""
        order = torch.randperm(len(self.data.train), generator=self.generator)
        return order[: self.steps_per_epoch * self.batch]

    def steps(self, order: Tensor) -> Iterator[float]:
        """Train on these images batch by batch; yields the loss of each step once it is done."""
        self.net.train()
        for images, labels in self.data.train.batches(order, self.batch):
            yield self._train_step(images.to(self.device), labels.to(self.device))

    def add_gradients(self, images: Tensor, labels: Tensor) -> float:
        """Add the gradients of one step to those of the parameters, and return its loss."""
        return self.add_gradients_of(self.net, images, labels)

    def add_gradients_of(
        self, forward: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, share: float = 1.0
    ) -> float:
        """Add the gradients of what ``forward`` makes of the images, weighted by ``share``; returns its whole loss.

        Raises:
            TrainingDiverged: The loss is NaN or infinite.
        """
        with mixed_precision(self.device):
            logits = class_logits(forward, images, self.data)
            loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingDiverged(self.step, value)
        torch.autograd.backward(self.scaler.scale(loss if share == 1 else share * loss))
        return value

    def _train_step(self, images: Tensor, labels: Tensor) -> float:
        if self.config.augment and self.data.augmentable:
            images = random_shift_flip(images, self.data.image_size // 8, self.generator)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self._schedule()
        self.optimizer.zero_grad()
        value = self.add_gradients(images, labels)
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.config.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        return value

    def _schedule(self) -> float:
        """Share of the highest learning rate at this step: a line up, then half a cosine down to zero."""
        steps = self.steps_per_epoch * self.config.epochs
        warmup = math.ceil(_WARMUP * steps)
        if self.step < warmup:
            return (self.step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (self.step - warmup + 1) / (steps - warmup + 1)))


def class_logits(net: Callable[[Tensor], Tensor], images: Tensor, data: Data) -> Tensor:
    """Return what a network makes of images, normalised and in channels_last, in float32.

    Args:
        net: The network.
        images: ``(N, 3, H, W)``, as the data hands them out, on the network's device.
        data: The data.

    Returns:
        Logits ``(N, num_classes)``.

    Raises:
        ValueError: The network does not give one logit for each class.
    """
    logits = net(data.normalize(images).contiguous(memory_format=torch.channels_last))
    expected = (len(images), data.num_classes)
    if not isinstance(logits, Tensor) or logits.shape != expected:
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the network gave {given}, expected logits of shape {expected}: one for each class")
    return logits.float()


def decay_groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return a network's parameters as an optimizer's groups: weights of two dimensions and more decay."""
    decayed = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in net.parameters() if parameter.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
