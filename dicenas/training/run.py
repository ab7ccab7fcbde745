"""Training one network from the first step to the exported files, through any number of interruptions."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dicenas.architecture import Architecture
from dicenas.cost.runtimes import using_threads
from dicenas.evaluation.checkpoint import read_checkpoint, require_same, write_checkpoint
from dicenas.evaluation.data import DataConfig
from dicenas.evaluation.devices import random_state
from dicenas.evaluation.statistics import quick_statistics
from dicenas.export import FORMATS, check_formats, export_network
from dicenas.nets import build
from dicenas.training.data import TrainingData
from dicenas.training.image_sets import Plan
from dicenas.training.prepare import prepare
from dicenas.training.processes import joined_processes
from dicenas.training.recipes import Recipe, get_recipe
from dicenas.training.records import TrainFolder, TrainResult
from dicenas.training.streams import ShardSet
from dicenas.training.teacher import load_teacher
from dicenas.training.trainer import Trainer

__all__ = ["TeacherConfig", "finished_training", "train"]

logger = logging.getLogger(__name__)

_CHECKPOINT_SECONDS = 300.0


@dataclass(frozen=True)
class TeacherConfig:
    """A network to learn from.

    Attributes:
        name: ``timm:NAME`` or ``torchvision:NAME``.
        weights: File of its weights; the published ones where it is None.
    """

    name: str
    weights: Path | None = None


def train(
    architecture: Architecture | str,
    data: str | os.PathLike[str] | DataConfig,
    recipe: Recipe | str,
    out: str | os.PathLike[str],
    *,
    teacher: TeacherConfig | None = None,
    device: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
    compiled: bool = False,
    formats: Sequence[str] = ("py", "safetensors"),
    drawing: Callable[[Architecture], str] | None = None,
    checkpoint_seconds: float = _CHECKPOINT_SECONDS,
    report: Callable[[int, Mapping[str, float]], None] | None = None,
) -> TrainResult:
    """Train a network, measure it and export it; where a training was interrupted, the same call goes on.

    On the CPU, a training that was interrupted, even killed, ends with the same weights to the bit as one that was
    not, at the same number of threads. Under torchrun every process calls this; the first one writes.

    Args:
        architecture: What to train, from fresh weights, or the name of a published network. The number of classes is
            the dataset's; a name is built for the recipe's image size.
        data: See :func:`dicenas.training.open_data`.
        recipe: A recipe or the name of one.
        out: The folder of the training; it is made.
        teacher: A network to learn from, beside the classes.
        device: ``cpu``, ``cuda``, ``cuda:1``, or ``auto``: a graphics card where there is one.
        threads: CPU threads; those set in torch where it is None.
        workers: Processes that decode images for each training process; up to 8 for files where it is None. Images
            in memory need none.
        compiled: Whether training runs through ``torch.compile``.
        formats: See :func:`dicenas.export.export_network`; none at all exports nothing. A finished training that
            lacks one of them is exported anew from its checkpoint.
        drawing: Draws the architecture for the exported folder as an SVG image, such as
            :func:`dicenas.report.architecture_svg`.
        checkpoint_seconds: Most seconds between checkpoints; there is one at each epoch's end anyway.
        report: Called by the first process after each epoch with its number, from 1, and its metrics. What it
            raises ends the call; a later call goes on behind that epoch.

    Returns:
        What the training came to.

    Raises:
        ValueError: The recipe, the data, the device and the architecture do not fit together, or the folder is that of
            another training, or one is at work in it.
        FileExistsError: The folder holds something else.
        TrainingDiverged: The loss became NaN or infinite.
    """
    recipe = get_recipe(recipe) if isinstance(recipe, str) else recipe
    if formats:
        check_formats(formats)
    folder = TrainFolder(Path(out))
    with joined_processes(device) as processes, using_threads(threads), random_state(recipe.seed, processes.device):
        prepared = prepare(architecture, data, recipe, processes, workers)
        fitted, opened, plan = prepared.architecture, prepared.data, prepared.plan
        identity = _identity(fitted, opened, recipe, plan, teacher)
        with folder.lock() if processes.first else contextlib.nullcontext():
            if (found := folder.read_identity()) is not None:
                require_same(folder.path, found, identity)
            result = finished_training(folder, formats)
            processes.wait()  # all have seen the folder as it was
            if result is not None:
                return result
            if processes.first:
                folder.claim(identity)
            taught = None
            if teacher is not None:
                taught = load_teacher(teacher.name, teacher.weights, opened.num_classes, processes.device)
            torch.manual_seed(recipe.seed)
            net = build(fitted)
            trainer = Trainer(net, opened, recipe, plan, processes, teacher=taught, compiled=compiled)
            _take_up(trainer, folder, identity)
            with quick_statistics(net, recipe.epochs * trainer.steps_per_epoch * plan.accumulation):
                _run(trainer, folder, identity, checkpoint_seconds, report)
            metrics = _result(trainer)
            if processes.first:
                if formats:
                    _export(trainer, folder, metrics, formats, None if drawing is None else drawing(fitted))
                folder.write_result(metrics)
            processes.wait()
            return TrainResult(folder.path, metrics)


def finished_training(folder: TrainFolder, formats: Sequence[str]) -> TrainResult | None:
    """Return what a training came to, None where something is left to do: epochs, or an export in one of the formats.

    Raises:
        ValueError: It was not exported so, and its checkpoint is gone; or a file is damaged.
    """
    result = folder.read_result()
    lacking = [name for name in formats if not (folder.export_path / FORMATS[name]).is_file()]
    if result is not None and lacking and not folder.checkpoint_path.is_file():
        raise ValueError(
            f"{folder.path} is finished, but was not exported as {', '.join(lacking)}, and its checkpoint is gone; "
            "train into another folder"
        )
    return None if lacking else result


def _take_up(trainer: Trainer, folder: TrainFolder, identity: Mapping[str, Any]) -> None:
    """Go on from the checkpoint in the folder, if there is one."""
    if folder.checkpoint_path.is_file():
        found, state = read_checkpoint(folder.checkpoint_path)
        require_same(folder.checkpoint_path, found, identity)
        trainer.load_state_dict(state)
        if trainer.processes.first and trainer.epoch < trainer.recipe.epochs:
            logger.info(
                "goes on in epoch %d, behind %d of its %d steps",
                trainer.epoch + 1,
                trainer.step,
                trainer.steps_per_epoch,
            )
    trainer.processes.wait()  # none writes a checkpoint before all have read it


def _run(
    trainer: Trainer,
    folder: TrainFolder,
    identity: Mapping[str, Any],
    checkpoint_seconds: float,
    report: Callable[[int, Mapping[str, float]], None] | None,
) -> None:
    saved = time.monotonic()
    while trainer.epoch < trainer.recipe.epochs:
        for _ in trainer.run_epoch():
            ended = trainer.step == 0
            if not trainer.processes.first:
                continue
            if ended:  # before the checkpoint: behind it, an interruption would leave an epoch out
                folder.write_metrics(trainer.history)
                folder.write_confusion(trainer.scores.confusion, trainer.data.class_names)
            if ended or time.monotonic() - saved > checkpoint_seconds:
                write_checkpoint(folder.checkpoint_path, identity, trainer.state_dict())
                saved = time.monotonic()
        if trainer.processes.first and report is not None:
            report(trainer.epoch, trainer.history[-1])


def _result(trainer: Trainer) -> dict[str, float]:
    last = trainer.history[-1]
    metrics = {name: last[name] for name in ("accuracy", "top5_accuracy", "loss")}
    seconds = sum(row["seconds"] for row in trainer.history)
    return {**metrics, "train_seconds": seconds, "epochs": trainer.epoch}


def _export(
    trainer: Trainer,
    folder: TrainFolder,
    metrics: Mapping[str, float],
    formats: Sequence[str],
    drawing: str | None,
) -> None:
    # An interruption may have left the one and not the result.
    export_network(
        trainer.trained.cpu().to(memory_format=torch.contiguous_format).eval(),
        folder.export_path,
        formats,
        metrics=metrics,
        class_names=trainer.data.class_names,
        normalization=(trainer.data.mean, trainer.data.std),
        drawing=drawing,
        force=folder.export_path.exists(),
    )


def _identity(
    architecture: Architecture, data: TrainingData, recipe: Recipe, plan: Plan, teacher: TeacherConfig | None
) -> dict[str, Any]:
    """Return what makes a training this one: all that decides its result but for the machine."""
    taught_by = None
    if teacher is not None:
        weights = teacher.weights
        digest = "published" if weights is None else hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
        taught_by = {"name": teacher.name, "weights": digest}
    identity: dict[str, Any] = {
        "architecture": architecture.to_dict(),
        "recipe": recipe.to_dict(),
        "data": data.identity,
        "processes": plan.processes,
        "teacher": taught_by,
    }
    if isinstance(data.train, ShardSet):
        identity["workers"] = plan.workers  # each reads shards of its own
    return identity
