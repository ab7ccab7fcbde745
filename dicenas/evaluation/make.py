"""From the description of an evaluator to the evaluator."""

from __future__ import annotations

from typing import TypeAlias

import torch

from dicenas.evaluation.data import Data
from dicenas.evaluation.evaluators import Evaluator
from dicenas.evaluation.train_evaluator import TrainEvaluator, TrainEvaluatorConfig
from dicenas.runs import RunFolder

__all__ = ["EvaluatorConfig", "make_evaluator"]

#: What describes an evaluator.
EvaluatorConfig: TypeAlias = TrainEvaluatorConfig


def make_evaluator(
    config: EvaluatorConfig,
    data: Data,
    device: str | torch.device = "cpu",
    *,
    run: RunFolder | None = None,
) -> Evaluator:
    """Return the evaluator that a configuration describes.

    Args:
        config: The description.
        data: Images to train and validate on.
        device: Where networks are trained.
        run: Folder of the run, where finished networks are found whose weights others inherit.

    Raises:
        ValueError: The configuration needs something that is not given.
    """
    if config.inherit and run is None:
        raise ValueError("inherit: weights are inherited from the networks of a run, but no run folder is given")
    return TrainEvaluator(data, config, device, parents=run if config.inherit else None)
