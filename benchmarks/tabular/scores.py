"""What predicts the accuracy of the tabular benchmark's architectures: zero-cost proxies, and a supernet."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tqdm import tqdm

from dicenas import build
from dicenas.evaluation import PROXIES, ProxyConfig, ProxyEvaluator
from dicenas.evaluation.supernet import SupernetConfig, SupernetEvaluator
from dicenas.files import atomic_write_text

from .images import default_folder, load_parts
from .table import RECIPE, SPACE, architectures
from .training import origin

__all__ = ["SUPERNET", "Score", "add", "read", "run_proxies", "run_supernet"]

logger = logging.getLogger(__name__)

#: The supernet's training: on the images that the architectures were trained on.
SUPERNET = SupernetConfig(epochs=30, batch=50, learning_rate=0.03, threads=1)

_SCHEMA_VERSION = 1
#: Networks that a step of a supernet's training passes its batch through.
_NETWORKS_A_STEP = {"uniform": 1, "sandwich": 4}


@dataclass(frozen=True)
class Score:
    """A score of every architecture; more is better.

    Attributes:
        values: The score of each architecture, by its hash.
        epochs: Trained epochs that all scores together cost, 0 for those of untrained networks. An epoch of a supernet
            is one of a network; by the sandwich rule it is four.
        seconds: Processor time that all scores together took.
        origin: Date, versions and settings.
    """

    values: Mapping[str, float]
    epochs: int
    seconds: float
    origin: str


def read(path: Path) -> dict[str, Score]:
    """Return the scores in a file by name; none where there is no file.

    Raises:
        ValueError: The file is no such file.
    """
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("schema_version") != _SCHEMA_VERSION:
        raise ValueError(f"{path}: no scores of schema version {_SCHEMA_VERSION}")
    return {name: Score(**score) for name, score in content["scores"].items()}


def add(path: Path, scores: Mapping[str, Score]) -> None:
    """Add scores to a file, in place of those of the same names."""
    rows = {name: score.__dict__ for name, score in sorted({**read(path), **scores}.items())}
    lines = ",\n  ".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    atomic_write_text(path, f'{{"schema_version": {_SCHEMA_VERSION}, "scores": {{\n  {lines}\n}}}}\n')


def run_proxies(path: Path, folder: Path | None = None) -> int:
    """Score every architecture by every proxy, each by itself.

    Returns:
        0, the exit status.
    """
    data, _, _ = load_parts(folder or default_folder(), RECIPE)
    found = {}
    for name in tqdm(PROXIES, unit="proxy", disable=None):
        config = ProxyConfig(proxies=(name,))
        evaluator = ProxyEvaluator(SPACE, data, config)
        started = time.process_time()
        values = {a.hash: evaluator(a, None, lambda step, metrics: None)[name] for a in architectures()}
        found[name] = Score(values, 0, round(time.process_time() - started, 1), _about(asdict(config)))
    add(path, found)
    return 0


def run_supernet(path: Path, folder: Path | None = None, config: SupernetConfig = SUPERNET) -> int:
    """Train a supernet over the space, and read off it the accuracy of every architecture.

    Returns:
        0, the exit status.
    """
    data, _, _ = load_parts(folder or default_folder(), RECIPE)
    started = time.process_time()
    evaluator = SupernetEvaluator(SPACE, data, config)
    values = {}
    with TemporaryDirectory() as kept:
        evaluator.prepare(Path(kept))
        logger.info("trained in %.0f s of processor time", time.process_time() - started)
        for architecture in tqdm(architectures(), unit="architecture", disable=None):
            torch.manual_seed(0)
            metrics = evaluator(architecture, build(architecture), lambda step, metrics: None)
            values[architecture.hash] = metrics["accuracy"]
    epochs = config.epochs * _NETWORKS_A_STEP[config.sampling]
    score = Score(values, epochs, round(time.process_time() - started, 1), _about(asdict(config)))
    add(path, {f"supernet ({config.sampling})": score})
    return 0


def _about(settings: Mapping[str, object]) -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}, {origin()}, {json.dumps(settings)}"
