"""Accuracies read off a supernet."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from random import Random

import pytest
import torch

from dicenas.evaluation import Data, SupernetConfig, SupernetEvaluator, evaluate, recalibrate, train_supernet
from dicenas.evaluation.supernet import evaluator as evaluator_module
from dicenas.nets import build
from dicenas.space import SpaceSpec


def ignore(step: int, metrics: Mapping[str, float]) -> None:
    """Takes reports and does nothing."""


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A folder with the trained supernet."""
    shutil.copy(trained, tmp_path)
    return tmp_path


def test_networks_inherit_and_are_measured(
    folder: Path, trained: Path, digits: Data, spec: SpaceSpec, config: SupernetConfig
) -> None:
    evaluator = SupernetEvaluator(spec, digits, config)
    assert evaluator.trains_network
    assert evaluator.costs == {}
    evaluator.prepare(folder)
    supernet = train_supernet(spec, digits, config, checkpoint=trained)
    rng = Random(0)
    accuracies = []
    for _ in range(3):
        architecture = spec.random(rng)
        net, expected = build(architecture), build(architecture)
        metrics = evaluator(architecture, net, ignore)
        supernet.copy_to(expected, architecture)
        recalibrate(expected, digits, batches=config.recalibration_batches)
        assert metrics == evaluate(expected, digits) == evaluate(net, digits)
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), expected.parameters(), strict=True))
        accuracies.append(metrics["accuracy"])
    assert min(accuracies) > 0.2  # ten classes


def test_a_network_cut_from_a_supernet_needs_recalibration(
    trained: Path, digits: Data, spec: SpaceSpec, config: SupernetConfig
) -> None:
    supernet = train_supernet(spec, digits, config, checkpoint=trained)
    for seed in range(2):
        architecture = spec.random(Random(seed))
        net = build(architecture)
        supernet.copy_to(net, architecture)
        cut = evaluate(net, digits)
        recalibrate(net, digits)
        recalibrated = evaluate(net, digits)
        assert recalibrated["accuracy"] > cut["accuracy"] + 0.1
        assert recalibrated["loss"] < cut["loss"]


def test_no_architecture_is_measured_twice(
    folder: Path,
    digits: Data,
    spec: SpaceSpec,
    config: SupernetConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    measured = []

    def counted(*arguments: object, **options: object) -> dict[str, float]:
        measured.append(arguments)
        return evaluate(*arguments, **options)

    monkeypatch.setattr(evaluator_module, "evaluate", counted)
    architecture = spec.random(Random(0))
    results = []
    for recipe in (config, config, SupernetConfig(**{**vars(config), "recalibration_batches": 1})):
        evaluator = SupernetEvaluator(spec, digits, recipe)
        evaluator.prepare(folder)
        net = build(architecture)
        results.append(evaluator(architecture, net, ignore))
        # The network is the supernet's either way.
        assert evaluate(net, digits) == results[-1]
        assert evaluator(architecture, build(architecture), ignore) == results[-1]
    assert results[0] == results[1]
    assert len(measured) == 2  # another recalibration is another result
    (file,) = (folder / "accuracies").iterdir()
    for spoilt in ("", "{", '{"supernet": 1}', "[]"):
        file.write_text(spoilt)
        assert evaluator(architecture, build(architecture), ignore) == results[-1]
    assert len(measured) == 6
    assert [record.levelno for record in caplog.records].count(logging.WARNING) >= 2


def test_what_does_not_suit_is_refused(digits: Data, spec: SpaceSpec, folder: Path) -> None:
    with pytest.raises(ValueError, match="the space has 10 classes, the data 9"):
        SupernetEvaluator(spec, Data(**{**_fields(digits), "class_names": digits.class_names[1:]}))
    with pytest.raises(ValueError, match="device 'tpu' is not known"):
        SupernetEvaluator(spec, digits, device="tpu")
    evaluator = SupernetEvaluator(spec, digits)
    architecture = spec.random(Random(0))
    with pytest.raises(RuntimeError, match="there is no supernet yet; call prepare"):
        evaluator(architecture, build(architecture), ignore)
    with pytest.raises(ValueError, match="the checkpoint is that of another training: recipe"):
        evaluator.prepare(folder)


def _fields(data: Data) -> dict[str, object]:
    return {name: getattr(data, name) for name in ("train", "val", "class_names", "mean", "std", "augmentable")}
