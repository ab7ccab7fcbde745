"""Short training behind the evaluators' interface, and weights that one network inherits from another."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dicenas.architecture import Architecture
from dicenas.evaluation import (
    Data,
    DataConfig,
    FilteredEvaluator,
    ProxyConfig,
    ProxyEvaluator,
    StopEvaluation,
    SupernetConfig,
    SupernetEvaluator,
    TrainConfig,
    TrainEvaluator,
    TrainEvaluatorConfig,
    load_data,
    make_evaluator,
    train_and_evaluate,
)
from dicenas.evaluation.train_evaluator import differing_choices, inherit_weights
from dicenas.nets import Network, build
from dicenas.runs import RunFolder, TrialRecord
from dicenas.space import SpaceSpec

SEPARABLE = Architecture(
    "shufflenetv2",
    0.1,
    (("separable_k3", "separable_k3"),) * 3,
    "small",
    (12, 12),
    num_classes=10,
)
RECIPE = TrainConfig(epochs=1, batch=20)


def with_ops(*ops: str) -> Architecture:
    """The op of each stage's second block."""
    return SEPARABLE.replace(stages=tuple(("separable_k3", op) for op in ops))


def fresh(architecture: Architecture, seed: int = 0) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(architecture)


def ignore(step: int, metrics: object) -> None:
    """Takes a report."""


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data(DataConfig(image_size=12, train_limit=60, val_limit=30))


def add_trial(run: RunFolder, number: int, net: Network, state: Any = "complete", weights: bool = True) -> None:
    if weights:
        run.write_weights(number, net.state_dict())
    run.write_trial(TrialRecord(number, net.architecture, state, {"accuracy": 0.5}))


def test_it_is_the_short_training(data: Data) -> None:
    reported: list[tuple[int, Mapping[str, float]]] = []
    net, other = fresh(SEPARABLE), fresh(SEPARABLE)
    metrics = dict(TrainEvaluator(data, RECIPE)(SEPARABLE, net, lambda step, found: reported.append((step, found))))
    expected = train_and_evaluate(other, data, RECIPE)
    del metrics["train_seconds"], expected["train_seconds"]
    assert metrics == expected
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    assert [step for step, _ in reported] == [1]
    assert set(reported[0][1]) == {"accuracy", "loss", "train_loss"}


def test_a_report_that_stops_a_trial_is_heard(data: Data) -> None:
    def report(step: int, metrics: object) -> None:
        raise StopEvaluation

    with pytest.raises(StopEvaluation):
        TrainEvaluator(data, TrainConfig(epochs=3, batch=20))(SEPARABLE, fresh(SEPARABLE), report)


def test_differing_choices() -> None:
    assert differing_choices(SEPARABLE, SEPARABLE) == 0
    assert differing_choices(SEPARABLE, with_ops("dice_k3", "separable_k3", "skip")) == 2
    assert differing_choices(SEPARABLE, SEPARABLE.replace(width=0.2, image_size=(24, 24))) == 2
    deeper = SEPARABLE.replace(stages=(SEPARABLE.stages[0] + ("skip", "skip"), *SEPARABLE.stages[1:]))
    assert differing_choices(SEPARABLE, deeper) == differing_choices(deeper, SEPARABLE) == 2
    assert differing_choices(SEPARABLE, SEPARABLE.replace(stages=SEPARABLE.stages[:2])) == 2


def test_weights_are_inherited_where_names_and_shapes_agree() -> None:
    parent, child = fresh(SEPARABLE, 1), fresh(with_ops("separable_k3", "dice_k3", "separable_k3"), 2)
    before = {name: tensor.clone() for name, tensor in child.state_dict().items()}
    theirs = parent.state_dict()
    share = inherit_weights(child, theirs)
    taken = {name for name, tensor in before.items() if name in theirs and theirs[name].shape == tensor.shape}
    assert 0 < len(taken) < len(before)
    assert "stages.1.1.pointwise.conv.weight" in taken
    for name, tensor in child.state_dict().items():
        assert torch.equal(tensor, theirs[name] if name in taken else before[name])
    sizes = {name: parameter.numel() for name, parameter in child.named_parameters()}
    assert share == sum(sizes[name] for name in sizes if name in taken) / sum(sizes.values())
    assert inherit_weights(parent, theirs) == 1
    # Never half of a tensor: another width shares next to nothing.
    assert inherit_weights(fresh(SEPARABLE.replace(width=1.0)), theirs) < 0.1
    assert inherit_weights(nn.Identity(), theirs) == 0


def test_training_starts_from_the_nearest_network_of_the_run(
    data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run = RunFolder(tmp_path / "run")
    evaluator = TrainEvaluator(data, RECIPE, parents=run)
    child = with_ops("dice_k3", "dice_k3", "skip")
    metrics = evaluator(child, fresh(child), ignore)
    assert metrics["inherited"] == 0

    near, far = with_ops("dice_k3", "dice_k3", "separable_k3"), with_ops("skip", "skip", "separable_k3")
    add_trial(run, 3, fresh(near, 3))
    add_trial(run, 5, fresh(near.replace(stages=((near.stages[0][0], "skip"), *near.stages[1:])), 5))
    add_trial(run, 7, fresh(far, 7))
    add_trial(run, 8, fresh(child, 8), "failed")
    add_trial(run, 9, fresh(child, 9), weights=False)
    add_trial(run, 10, fresh(child.replace(num_classes=3), 10))
    trained, expected = fresh(child), fresh(child)
    metrics = evaluator(child, trained, ignore)
    assert "% of trial 3" in caplog.text
    assert metrics["inherited"] == inherit_weights(expected, run.load_network(3).state_dict()) > 0.9
    alone = train_and_evaluate(expected, data, RECIPE)
    assert metrics["accuracy"] == alone["accuracy"]
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), expected.parameters(), strict=True))

    # Of equals the newest; what is damaged is passed over, and said.
    add_trial(run, 11, fresh(near, 11))
    run.weights_path(11).write_bytes(b"torn")
    caplog.clear()
    assert evaluator(child, fresh(child), ignore)["inherited"] == metrics["inherited"]
    assert "trial 11 has no heirs" in caplog.text
    assert "% of trial 3" in caplog.text


def test_evaluators_are_made_from_their_descriptions(data: Data, tmp_path: Path) -> None:
    space = SpaceSpec("shufflenetv2", widths=(0.1,), stems=("small",), resolutions=(12,), num_classes=10)
    for config, kind in (
        (TrainEvaluatorConfig(), TrainEvaluator),
        (SupernetConfig(), SupernetEvaluator),
        (ProxyConfig(), ProxyEvaluator),
    ):
        evaluator = make_evaluator(config, space, data)
        assert type(evaluator) is kind
        with pytest.raises(ValueError, match=f"{type(config).__name__} needs data"):
            make_evaluator(config, space)
    assert type(make_evaluator(SupernetConfig(), space, data, proxy=ProxyConfig())) is FilteredEvaluator
    with pytest.raises(ValueError, match="no run folder is given"):
        make_evaluator(TrainEvaluatorConfig(inherit=True), space, data)
    with pytest.raises(ValueError, match="inherit: 1, expected true or false"):
        TrainEvaluatorConfig(inherit=1)  # type: ignore[arg-type]
    run = RunFolder(tmp_path / "run")
    heir = make_evaluator(TrainEvaluatorConfig(epochs=1, batch=20, inherit=True), space, data, run=run)
    assert heir(SEPARABLE, fresh(SEPARABLE), ignore)["inherited"] == 0
