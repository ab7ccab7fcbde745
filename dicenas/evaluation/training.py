"""Short training of one network, and its accuracy."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from dicenas.cost.runtimes import using_threads
from dicenas.evaluation.data import Data
from dicenas.evaluation.devices import checked_device, mixed_precision, placed, random_state
from dicenas.evaluation.evaluators import StopEvaluation
from dicenas.evaluation.half_trained import HalfTrained
from dicenas.evaluation.statistics import quick_statistics
from dicenas.evaluation.trainer import TrainConfig, Trainer, TrainingDiverged, class_logits

__all__ = ["evaluate", "train_and_evaluate"]

logger = logging.getLogger(__name__)

_EVALUATION_BATCH = 256


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
            logits = class_logits(net, images.to(device), data)
            correct += int((logits.argmax(1) == labels).sum())
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
    return {"accuracy": correct / len(data.val), "loss": loss / len(data.val)}
