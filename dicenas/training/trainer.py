"""The state of one training, and its steps."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from dicenas.evaluation.trainer import TrainingDiverged
from dicenas.nets import Network
from dicenas.training.data import TrainingData
from dicenas.training.image_sets import Plan
from dicenas.training.optimization import CheckpointedNetwork, amp_dtype, make_optimizer, make_schedule
from dicenas.training.processes import Processes
from dicenas.training.recipes import Recipe
from dicenas.training.scores import Scores
from dicenas.training.teacher import Teacher, distillation_loss
from dicenas.training.transforms import BatchAugmentation, derived_seed

__all__ = ["Trainer"]

_STEPS_BETWEEN_CHECKS = 20  # reading the loss makes a graphics card wait


class Trainer:
    """A network in training, and how far it is.

    Nothing random has a state here: every order, augmentation and dropout follows from the seed and the position. A
    training that loads the state of another one goes on as that one would have, on the CPU to the bit.

    Args:
        net: The network, with fresh weights.
        data: What to train on.
        recipe: How to train.
        plan: How epochs are cut into batches.
        processes: Who takes part.
        teacher: A network to learn from, beside the classes.
        compiled: Whether training runs through ``torch.compile``.

    Attributes:
        epoch: Epochs done.
        step: Optimizer steps done in the epoch that has begun.
        history: Metrics of each epoch done.
        scores: Counts over the validation images after the last epoch done.
    """

    def __init__(
        self,
        net: Network,
        data: TrainingData,
        recipe: Recipe,
        plan: Plan,
        processes: Processes,
        *,
        teacher: Teacher | None = None,
        compiled: bool = False,
    ) -> None:
        from timm.utils.model_ema import ModelEmaV3

        self.data = data
        self.recipe = recipe
        self.plan = plan
        self.processes = processes
        self.device = processes.device
        self.teacher = teacher
        self.net = net.to(self.device).to(memory_format=torch.channels_last)
        self.ema = ModelEmaV3(self.net, recipe.ema_decay, use_warmup=True) if recipe.ema_decay is not None else None
        self.forward: nn.Module = CheckpointedNetwork(self.net) if recipe.gradient_checkpointing else self.net
        if processes.count > 1:
            # Gradients of 1x1 kernels have strides of either memory format, which are the same.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            self.forward = nn.parallel.DistributedDataParallel(self.forward)
        self.no_sync: Callable[[], Any] = getattr(self.forward, "no_sync", contextlib.nullcontext)
        if compiled:
            self.forward = torch.compile(self.forward)  # type: ignore[assignment]
        self.steps_per_epoch = plan.steps(len(data.train))
        self.optimizer = make_optimizer(self.net, recipe)
        self.schedule = make_schedule(self.optimizer, recipe, self.steps_per_epoch)
        self.amp_dtype = amp_dtype(recipe, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp_dtype is torch.float16)
        self.augmentation = BatchAugmentation(recipe, data.num_classes, data.augmentable)
        self.epoch = 0
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.scores = Scores.empty(data.num_classes)
        self._loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self._seconds = 0.0

    @property
    def trained(self) -> Network:
        """The network that is validated and exported: the moving average, where there is one."""
        return self.ema.module if self.ema is not None else self.net

    def state_dict(self) -> dict[str, Any]:
        """Return all that another trainer needs to go on from here."""
        self._check_loss()
        return {
            "net": self.net.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "loss": self._loss,
            "seconds": self._seconds,
            "history": self.history,
            "scores": (self.scores.confusion, self.scores.sums),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where :meth:`state_dict` was."""
        self.net.load_state_dict(state["net"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # none was needed on a device without float16
            self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step = state["epoch"], state["step"]
        self._loss = state["loss"].to(self.device)
        self._seconds = state["seconds"]
        self.history = list(state["history"])
        self.scores = Scores(*state["scores"])

    def run_epoch(self) -> Iterator[None]:
        """Train to the end of the epoch, and validate; yields after each step.

        Raises:
            TrainingDiverged: The loss became NaN or infinite.
            ValueError: An image cannot be decoded.
        """
        start = time.perf_counter()
        before = self._seconds
        self.forward.train()
        batches = self.data.train.training_batches(self.plan, self.epoch, self.step, self.data.train_transform)
        with tqdm(
            total=self.steps_per_epoch,
            initial=self.step,
            desc=f"epoch {self.epoch + 1}/{self.recipe.epochs}",
            unit="step",
            leave=False,
            disable=None if self.processes.first else True,
        ) as bar:
            while self.step < self.steps_per_epoch:
                self._train_step(batches)
                self.step += 1
                self._seconds = before + time.perf_counter() - start
                bar.update()
                if self.step % _STEPS_BETWEEN_CHECKS == 0:
                    self._check_loss()
                if self.step < self.steps_per_epoch:
                    yield
        self._check_loss()
        self.scores = self._validate()
        if not math.isfinite(loss := self.scores.metrics()["loss"]):
            raise TrainingDiverged((self.epoch + 1) * self.steps_per_epoch, loss)
        train_loss = self.processes.sum(self._loss.cpu()).item() / self.processes.count
        self.history.append(
            {
                "epoch": self.epoch + 1,
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "train_loss": train_loss / (self.steps_per_epoch * self.plan.accumulation),
                **self.scores.metrics(),
                "seconds": self._seconds,
            }
        )
        self.epoch, self.step = self.epoch + 1, 0
        self._loss.zero_()
        self._seconds = 0.0
        yield

    def _train_step(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        number = self.epoch * self.steps_per_epoch + self.step
        self.schedule.step_update(number)
        self.optimizer.zero_grad()
        for part in range(self.plan.accumulation):
            images, labels = next(batches)
            # The same for these images, whichever process takes them.
            share = self.processes.rank * self.plan.accumulation + part
            seed = derived_seed(self.recipe.seed, "step", number, share)
            last = part == self.plan.accumulation - 1
            with contextlib.nullcontext() if last else self.no_sync():
                loss = self._loss_of(images, labels, seed)
                torch.autograd.backward(self.scaler.scale(loss / self.plan.accumulation))
            self._loss += loss.detach()
        if self.recipe.max_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update(self.net, step=number + 1)

    def _loss_of(self, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        images = images.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        torch.manual_seed(seed)  # mixup and dropout
        images = self.augmentation.geometry(images, seed).float().div_(255)
        images, targets = self.augmentation.mix(images, labels)
        with self._mixed_precision():
            logits = self.forward(self.data.normalize(images))
            taught = None if self.teacher is None else self.teacher(images)
        if logits.shape != (len(images), self.data.num_classes):
            raise ValueError(
                f"the network gave {tuple(logits.shape)}, expected ({len(images)}, {self.data.num_classes})"
            )
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=self.recipe.label_smoothing)
        if taught is not None:
            weight = self.recipe.distillation_weight
            distance = distillation_loss(logits, taught, self.recipe.distillation_temperature)
            loss = (1 - weight) * loss + weight * distance
        return loss

    def _validate(self) -> Scores:
        net = self.trained.eval()
        # Running statistics are those of the first process's images.
        self.processes.share(net.buffers())
        scores = Scores.empty(self.data.num_classes)
        with torch.inference_mode(), self._mixed_precision():
            for images, labels in self.data.val.validation_batches(self.plan, self.data.val_transform):
                scaled = images.to(self.device).float().div_(255)
                scores.add(net(self.data.normalize(scaled)).float(), labels.to(self.device))
        return Scores(self.processes.sum(scores.confusion), self.processes.sum(scores.sums))

    def _check_loss(self) -> None:
        # One loss that is not finite stays in the sum.
        if not math.isfinite(value := self._loss.item()):
            raise TrainingDiverged(self.epoch * self.steps_per_epoch + self.step, value)

    def _mixed_precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp_dtype is not None)
