"""Training of the tabular benchmark's architectures, one by one, in any number of processes."""

from __future__ import annotations

import logging
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

import dicenas
from dicenas import Architecture, build
from dicenas.cost import device_name
from dicenas.evaluation import Data, TrainConfig, TrainingDiverged, evaluate, train_and_evaluate
from dicenas.evaluation.tabular import Training
from dicenas.nets import architecture_cost

from .images import default_folder, load_parts
from .table import RECIPE, SPACE, Claims, Recipe, Table, header, order

__all__ = ["origin", "run", "train"]

logger = logging.getLogger(__name__)


def run(
    path: Path,
    folder: Path | None = None,
    stop: Path | None = None,
    limit: int | None = None,
    recipe: Recipe = RECIPE,
) -> int:
    """Train what a table lacks, and is not being trained by another process, until nothing is left.

    Args:
        path: The table.
        folder: Folder of the images, see :func:`images.default_folder`.
        stop: No training begins while this file exists.
        limit: Most trainings done.
        recipe: How to train.

    Returns:
        0, the exit status.
    """
    torch.set_num_threads(recipe.threads)
    train_data, test_data, digest = load_parts(folder or default_folder(), recipe)
    table = Table(path, header(recipe, digest))
    claims = Claims(path.with_suffix(".claims"))
    of = origin()
    done = 0
    for number, (architecture, seed) in enumerate(order()):
        if (stop is not None and stop.exists()) or done == limit:
            logger.info("stopped; the file has %d of %d trainings", len(table.trainings()), len(order()))
            return 0
        with claims.claim(number) as claimed:
            # Read behind the claim: whoever held it before has written by now.
            if not claimed or (architecture.hash, seed) in table.trainings():
                continue
            try:
                training = train(architecture, seed, recipe, train_data, test_data, of)
            except TrainingDiverged as error:
                logger.error("%d: %s; left out", number + 1, error)  # the others are worth having all the same
                continue
            table.append(training)
        done += 1
        logger.info(
            "%3d/%d %s seed %d: val %.4f test %.4f, %.1f s CPU, %.1f s",
            number + 1,
            len(order()),
            " ".join(map(str, training.sample.values())),
            seed,
            training.val_accuracy[-1],
            training.test_accuracy,
            training.cpu_seconds,
            training.wall_seconds,
        )
    logger.info("finished here; the file has %d of %d trainings", len(table.trainings()), len(order()))
    return 0


def train(
    architecture: Architecture, seed: int, recipe: Recipe, train_data: Data, test_data: Data, origin: str
) -> Training:
    """Train one architecture and measure it on the test images."""
    cpu, wall = time.process_time(), time.perf_counter()
    curves: dict[str, list[float]] = {"accuracy": [], "loss": [], "train_loss": []}

    def report(epoch: int, metrics: dict[str, float]) -> None:
        for name, curve in curves.items():
            curve.append(round(metrics[name], 6))

    config = TrainConfig(
        epochs=recipe.epochs,
        batch=recipe.batch,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        seed=seed,
        threads=recipe.threads,
    )
    torch.manual_seed(seed)
    net = build(architecture)
    size = architecture.image_size[0]
    train_and_evaluate(net, train_data.at_size(size), config, report=report)
    test_accuracy = evaluate(net, test_data.at_size(size))["accuracy"]
    cost = architecture_cost(architecture)
    return Training(
        architecture=architecture.hash,
        sample=SPACE.sample(architecture),
        seed=seed,
        val_accuracy=tuple(curves["accuracy"]),
        val_loss=tuple(curves["loss"]),
        train_loss=tuple(curves["train_loss"]),
        test_accuracy=test_accuracy,
        macs=cost.macs,
        params=cost.params,
        cpu_seconds=round(time.process_time() - cpu, 2),
        wall_seconds=round(time.perf_counter() - wall, 2),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        origin=origin,
    )


def origin() -> str:
    """Return the version of the code, of torch, and the processor."""
    root = Path(dicenas.__file__).resolve().parent
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=10"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    commit = f" ({found.stdout.strip()})" if found.returncode == 0 else ""
    return f"dicenas {dicenas.__version__}{commit}, torch {torch.__version__}, {device_name(torch.device('cpu'))}"
