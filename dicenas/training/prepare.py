"""What must be settled before the first step of a training: its data, its network, its batches."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

from dicenas.architecture import Architecture
from dicenas.evaluation.data import DataConfig
from dicenas.nets import net_architecture
from dicenas.training.data import TrainingData, open_data
from dicenas.training.image_sets import Plan
from dicenas.training.processes import Processes, joined_processes
from dicenas.training.recipes import Recipe
from dicenas.training.streams import ShardSet

__all__ = ["Prepared", "check_training", "prepare"]

_SMALL_STEM_BELOW = 64  # pixels; as Architecture.at_size


@dataclass(frozen=True)
class Prepared:
    """A training that may begin.

    Attributes:
        architecture: The architecture, for the classes of the data.
        data: The data, open.
        plan: How epochs are cut into batches.
    """

    architecture: Architecture
    data: TrainingData
    plan: Plan


def prepare(
    architecture: Architecture | str,
    data: str | os.PathLike[str] | DataConfig,
    recipe: Recipe,
    processes: Processes,
    workers: int | None,
) -> Prepared:
    """Open the data, fit the network to it, and plan the batches; see :func:`dicenas.training.train`.

    Raises:
        ValueError: Recipe, data and architecture do not fit together.
    """
    most = _most_workers(processes) if workers is None else workers
    opened = open_data(data, recipe, _image_size(architecture, recipe), workers=most)
    if workers is None and isinstance(opened.train, ShardSet):
        most = min(most, len(opened.train.shards) // processes.count)
    return Prepared(_fitted(architecture, opened), opened, _plan(opened, recipe, processes, most))


def check_training(
    architecture: Architecture, data: str | os.PathLike[str] | DataConfig, recipe: Recipe, *, device: str = "auto"
) -> TrainingData:
    """Check that a training could begin, long before it does.

    Args:
        architecture: What is to be trained, or another one with images of the same size.
        data: See :func:`dicenas.training.open_data`.
        recipe: The recipe.
        device: See :func:`dicenas.training.train`.

    Returns:
        The data, which may be cropped otherwise than in the training.

    Raises:
        ValueError: Device, recipe, data and architecture do not fit together, or a package is missing.
    """
    if importlib.util.find_spec("timm") is None:
        raise ValueError("training for real needs timm, which is not installed: pip install 'dicenas[train]'")
    with joined_processes(device) as processes:
        # Files that parts are cropped out of are not decoded until they are trained on.
        return prepare(architecture, data, recipe.replace(crop="resized"), processes, workers=None).data


def _image_size(architecture: Architecture | str, recipe: Recipe) -> int:
    if isinstance(architecture, str):
        return recipe.image_size
    height, width = architecture.image_size
    if height != width or architecture.in_channels != 3:
        raise ValueError(
            f"the architecture takes images of {height} x {width} with {architecture.in_channels} channels; training "
            "is for square images in colour"
        )
    return height


def _fitted(architecture: Architecture | str, data: TrainingData) -> Architecture:
    """Return the architecture for the classes of the data."""
    if isinstance(architecture, Architecture):
        return architecture.replace(num_classes=data.num_classes)
    named = net_architecture(architecture, data.num_classes, data.image_size)
    return named.replace(stem="small") if data.image_size < _SMALL_STEM_BELOW else named


def _plan(data: TrainingData, recipe: Recipe, processes: Processes, workers: int) -> Plan:
    count = processes.count
    micro_batch = recipe.micro_batch or max(1, recipe.batch // count)
    if recipe.batch % (micro_batch * count) != 0:
        raise ValueError(
            f"batch: {recipe.batch} cannot be shared by {count} processes in micro-batches of {micro_batch}; choose a "
            f"multiple of {micro_batch * count}"
        )
    if recipe.batch > len(data.train):
        raise ValueError(f"batch: {recipe.batch}, but there are only {len(data.train)} training images")
    plan = Plan(
        recipe.seed,
        micro_batch,
        recipe.batch // (micro_batch * count),
        processes.rank,
        count,
        workers,
        pin=processes.device.type == "cuda",
    )
    if isinstance(data.train, ShardSet):
        data.train.lanes(plan)
    return plan


def _most_workers(processes: Processes) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // processes.count))
