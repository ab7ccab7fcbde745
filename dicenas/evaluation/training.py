"""Short training of one network, and its accuracy."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dicenas.cost.runtimes import using_threads
from dicenas.evaluation.augment import random_shift_flip
from dicenas.evaluation.data import Data
from dicenas.evaluation.evaluators import StopEvaluation
from dicenas.evaluation.half_trained import HalfTrained
from dicenas.evaluation.statistics import quick_statistics

__all__ = [
    "TrainConfig",
    "Trainer",
    "TrainingDiverged",
    "amp_dtype",
    "checked_device",
    "decay_groups",
    "evaluate",
    "mixed_precision",
    "placed",
    "random_state",
    "train_and_evaluate",
]

logger = logging.getLogger(__name__)

_WARMUP = 0.1  # share of the steps in which the learning rate rises
_EVALUATION_BATCH = 256


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


def train_and_evaluate(
    net: nn.Module,
    data: Data,
    config: TrainConfig,
    *,
    device: str | torch.device = "cpu",
    report: Callable[[int, dict[str, float]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    half_trained: HalfTrained | None = None,
) -> dict[str, float]:
    """Train a network in place and measure its accuracy on the validation images.

    The same network, data and config give the same result to the bit on the CPU. The global random state and
    torch's number of threads are as before afterwards. On CUDA, training runs in mixed precision.

    Args:
        net: Takes float32 images ``(N, 3, H, W)`` and gives logits ``(N, num_classes)``. It is left on
            ``device``, in evaluation mode.
        data: What to train and validate on.
        config: The recipe.
        device: Where to train.
        report: Called after each epoch with its number, from 1, and ``accuracy`` and ``loss`` on the
            validation images and ``train_loss``. An exception that it raises ends the training.
        should_stop: Called after each epoch (after ``report``); training ends where it returns True.
        half_trained: Takes checkpoints at the ends of epochs, and may hold that of an attempt that was cut off. Then
            what that one reported is reported again, and training goes on behind it.

    Returns:
        ``accuracy`` (top-1, 0 to 1) and ``loss`` (cross-entropy) on the validation images, ``train_seconds``
        (without evaluation) and ``epochs`` done.

    Raises:
        TrainingDiverged: The loss became NaN or infinite.
        ValueError: The device is not there, or the network does not give one logit for each class.
    """
    target = checked_device(device)
    train_seconds = 0.0
    history: list[dict[str, float]] = []
    metrics: dict[str, float] | None = None
    with using_threads(config.threads), random_state(config.seed, target), placed(net, target):
        trainer = Trainer(net, data, config, target)
        if half_trained is not None and (state := half_trained.state) is not None:
            trainer.load_state_dict(state["trainer"])
            history, train_seconds = list(state["history"]), state["train_seconds"]
            logger.info("training goes on behind epoch %d of %d", len(history), config.epochs)
            if report is not None:
                _report_again(history, report)
        for epoch in range(len(history) + 1, config.epochs + 1):
            start = time.perf_counter()
            with quick_statistics(net, config.epochs * trainer.steps_per_epoch):
                train_loss = trainer.run_epoch()
            train_seconds += time.perf_counter() - start
            metrics = None if report is None else _validate(net, data, target)
            history.append({**(metrics or {}), "train_loss": train_loss})
            if report is not None:
                report(epoch, history[-1])
            if should_stop is not None and should_stop():
                break
            if half_trained is not None and epoch < config.epochs:
                state = {"trainer": trainer.state_dict(), "history": history, "train_seconds": train_seconds}
                half_trained.keep(state)
        metrics = metrics or _validate(net, data, target)
    if not math.isfinite(metrics["loss"]):
        raise TrainingDiverged(trainer.step, metrics["loss"])
    logger.debug("trained %d epochs in %.1f s: accuracy %.4f", epoch, train_seconds, metrics["accuracy"])
    return {**metrics, "train_seconds": train_seconds, "epochs": epoch}


def evaluate(net: nn.Module, data: Data, *, device: str | torch.device = "cpu") -> dict[str, float]:
    """Measure a network on the validation images.

    Args:
        net: Takes float32 images ``(N, 3, H, W)`` and gives logits ``(N, num_classes)``. It is left on
            ``device``, in evaluation mode.
        data: What to validate on.
        device: Where to run.

    Returns:
        ``accuracy`` (top-1, 0 to 1) and ``loss`` (mean cross-entropy).

    Raises:
        ValueError: The device is not there, or the network does not give one logit for each class.
    """
    target = checked_device(device)
    with placed(net, target):
        return _validate(net, data, target)


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
            logits = _logits(forward, images, self.data)
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


def _report_again(history: Sequence[dict[str, float]], report: Callable[[int, dict[str, float]], None]) -> None:
    """Report the epochs that an earlier attempt did.

    Raises:
        StopEvaluation: The report raised it, at whichever of them; what is reported last is what the weights are at.
    """
    stopped: StopEvaluation | None = None
    for epoch, metrics in enumerate(history, 1):
        try:
            report(epoch, metrics)
        except StopEvaluation as reason:
            stopped = stopped or reason
    if stopped is not None:
        raise stopped


def _validate(net: nn.Module, data: Data, device: torch.device) -> dict[str, float]:
    net.eval()
    correct = 0
    loss = 0.0
    with torch.inference_mode(), mixed_precision(device):
        for images, labels in data.val.batches(torch.arange(len(data.val)), _EVALUATION_BATCH):
            labels = labels.to(device)
            logits = _logits(net, images.to(device), data)
            correct += int((logits.argmax(1) == labels).sum())
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
    return {"accuracy": correct / len(data.val), "loss": loss / len(data.val)}


def _logits(net: Callable[[Tensor], Tensor], images: Tensor, data: Data) -> Tensor:
    logits = net(data.normalize(images).contiguous(memory_format=torch.channels_last))
    expected = (len(images), data.num_classes)
    if not isinstance(logits, Tensor) or logits.shape != expected:
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the network gave {given}, expected logits of shape {expected}: one for each class")
    return logits.float()


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def checked_device(device: str | torch.device) -> torch.device:
    """Return a device by its name.

    Raises:
        ValueError: It is not there.
    """
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is not known, expected cpu or cuda") from error
    if target.type == "cuda":
        present = torch.cuda.device_count()
        if (target.index or 0) >= present:
            raise ValueError(f"device {str(device)!r} was asked for, but this machine has {present} CUDA devices")
    return target


def decay_groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return a network's parameters as an optimizer's groups: weights of two dimensions and more decay."""
    decayed = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in net.parameters() if parameter.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def amp_dtype(device: torch.device) -> torch.dtype | None:
    """Precision of the arithmetic beside float32, None where there is none."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def mixed_precision(device: torch.device) -> torch.autocast:
    """Compute in 16 bits within the context where that is what a training on the device does."""
    dtype = amp_dtype(device)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


@contextlib.contextmanager
def placed(net: nn.Module, device: torch.device) -> Iterator[None]:
    """Move a network to a device, and let its weights lie in channels_last order meanwhile.

    Depth-wise convolutions train up to a third faster in that order on the CPU, too. Afterwards the weights
    are contiguous, as files of weights want them.
    """
    net.to(device).to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        net.to(memory_format=torch.contiguous_format)


@contextlib.contextmanager
def random_state(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global random state within the context, and put it back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
