"""From the description of an evaluator to the evaluator."""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

import torch

from dicenas.evaluation.data import Data
from dicenas.evaluation.evaluators import Evaluator
from dicenas.evaluation.proxy_evaluator import FilteredEvaluator, ProxyConfig, ProxyEvaluator
from dicenas.evaluation.supernet import SupernetConfig, SupernetEvaluator
from dicenas.evaluation.tabular import TabularConfig, TabularEvaluator
from dicenas.evaluation.train_evaluator import TrainEvaluator, TrainEvaluatorConfig
from dicenas.runs import RunFolder
from dicenas.space import SpaceSpec

__all__ = ["EvaluatorConfig", "make_evaluator"]

#: What describes an evaluator.
EvaluatorConfig: TypeAlias = TrainEvaluatorConfig | SupernetConfig | ProxyConfig | TabularConfig


def make_evaluator(
    config: EvaluatorConfig,
    space: SpaceSpec,
    data: Data | None = None,
    device: str | torch.device = "cpu",
    *,
    run: RunFolder | None = None,
    proxy: ProxyConfig | None = None,
) -> Evaluator:
    """Return the evaluator that a configuration describes.

    Args:
        config: The description.
        space: The space that is searched.
        data: Images to train and validate on; a table needs none.
        device: Where networks are evaluated.
        run: Folder of the run, where finished networks are found whose weights others inherit.
        proxy: Proxies that score architectures before they are evaluated; none by default.

    Raises:
        ValueError: The configuration needs something that is not given, or a table is of another space.
    """
    if isinstance(config, TabularConfig):
        replayed = TabularEvaluator(**dataclasses.asdict(config))
        if replayed.space != space:
            raise ValueError(f"{config.path} is a table of another space than the one that is searched")
        return replayed
    if data is None:
        raise ValueError(f"{type(config).__name__} needs data")
    if isinstance(config, ProxyConfig):
        return ProxyEvaluator(space, data, config, device)
    evaluator: Evaluator
    if isinstance(config, SupernetConfig):
        evaluator = SupernetEvaluator(space, data, config, device)
    else:
        if config.inherit and run is None:
            raise ValueError("inherit: weights are inherited from the networks of a run, but no run folder is given")
        evaluator = TrainEvaluator(data, config, device, parents=run if config.inherit else None)
    return evaluator if proxy is None else FilteredEvaluator(evaluator, ProxyEvaluator(space, data, proxy, device))
