"""Training of a supernet: what it draws, going on after an interruption, checkpoints that do not belong to it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from dicenas.evaluation import Data, Supernet, SupernetConfig, TrainingDiverged, train_supernet
from dicenas.evaluation.supernet import checkpoint as checkpoint_module
from dicenas.evaluation.supernet import train as train_module
from dicenas.space import SpaceSpec

SHORT = SupernetConfig(epochs=2, batch=150, checkpoint_seconds=0)  # 8 steps, a checkpoint after each

#: Trains as the tests do; killed in the middle.
SCRIPT = """
import json, sys
from pathlib import Path
from dicenas.evaluation import DataConfig, SupernetConfig, load_data, train_supernet
from dicenas.space import SpaceSpec
space, recipe, path = json.loads(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])
data = load_data(DataConfig(image_size=8, train_limit=600, val_limit=200))
train_supernet(SpaceSpec(**space), data, SupernetConfig(**recipe), checkpoint=path)
"""


def same_weights(first: Supernet, second: Supernet) -> bool:
    pairs = zip(first.weights.items(), second.weights.items(), strict=True)
    return all(name == other and torch.equal(a, b) for (name, a), (other, b) in pairs)


@pytest.fixture(scope="module")
def uninterrupted(digits: Data, spec: SpaceSpec) -> Supernet:
    return train_supernet(spec, digits, SHORT)


@pytest.mark.parametrize("stops", [(1, 4), (7,)])  # in an epoch, at its end, before the last step
def test_an_interrupted_training_gives_the_same_weights(
    stops: tuple[int, ...],
    uninterrupted: Supernet,
    digits: Data,
    spec: SpaceSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "supernet.safetensors"
    for stop in stops:

        def interrupted(path: Path, training: object, state: checkpoint_module.TrainingState, stop: int = stop) -> None:
            checkpoint_module.write_checkpoint(path, training, state)
            if state.step == stop:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(train_module, "write_checkpoint", interrupted)
            with pytest.raises(KeyboardInterrupt):
                train_supernet(spec, digits, SHORT, checkpoint=path)
    torch.manual_seed(3)  # what the global random state was must not matter
    assert same_weights(train_supernet(spec, digits, SHORT, checkpoint=path), uninterrupted)


def test_a_killed_training_goes_on(uninterrupted: Supernet, digits: Data, spec: SpaceSpec, tmp_path: Path) -> None:
    path = tmp_path / "supernet.safetensors"
    recipe = json.dumps({"epochs": 2, "batch": 150, "checkpoint_seconds": 0, "threads": 1})
    command = [sys.executable, "-c", SCRIPT, json.dumps(spec.to_dict()), recipe, str(path)]
    process = subprocess.Popen(command)
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert path.exists()
    assert same_weights(train_supernet(spec, digits, SHORT, checkpoint=path), uninterrupted)


def test_a_finished_supernet_is_read(
    trained: Path, digits: Data, spec: SpaceSpec, config: SupernetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = trained.read_bytes()
    monkeypatch.setattr(train_module._SupernetTrainer, "add_gradients", None)
    # How often it is saved, and what is done with it afterwards, is no matter of the training.
    other = replace(config, checkpoint_seconds=5, recalibration_batches=1, threads=1)
    first = train_supernet(spec, digits, config, checkpoint=trained)
    assert same_weights(first, train_supernet(spec, digits, other, checkpoint=trained))
    assert trained.read_bytes() == written


@pytest.mark.parametrize("sampling", ["uniform", "sandwich"])
def test_what_a_step_trains(sampling: str, digits: Data, spec: SpaceSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[object]] = []

    def draw(self: train_module._SupernetTrainer, rng: Random) -> list[object]:
        drawn.append(list(original(self, rng)))
        return drawn[-1]

    original = train_module._SupernetTrainer._drawn
    monkeypatch.setattr(train_module._SupernetTrainer, "_drawn", draw)
    train_supernet(spec, digits, replace(SHORT, epochs=1, sampling=sampling))
    assert len(drawn) == 4
    if sampling == "uniform":
        assert [len(step) for step in drawn] == [1] * 4
        assert len({step[0] for step in drawn}) > 1
        return
    for largest, smallest, *others in drawn:
        assert (largest.width, smallest.width) == (max(spec.widths), min(spec.widths))
        assert all(len(largest.stages[n]) >= len(smallest.stages[n]) for n in range(4))
        assert len(others) == 2
    assert len({step[0] for step in drawn}) > 1  # the ops are random


def test_data_of_other_classes(digits: Data, spec: SpaceSpec) -> None:
    with pytest.raises(ValueError, match="the space has 7 classes, the data 10"):
        train_supernet(replace(spec, num_classes=7), digits, SHORT)
    with pytest.raises(ValueError, match="the space takes images of 1 channels, the data has 3"):
        train_supernet(replace(spec, in_channels=1), digits, SHORT)


def test_a_training_that_diverges(digits: Data, spec: SpaceSpec) -> None:
    with pytest.raises(TrainingDiverged):
        train_supernet(spec, digits, replace(SHORT, learning_rate=1e30))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "sandwhich"}, "sampling: 'sandwhich', expected uniform or sandwich"),
        ({"recalibration_batches": 0}, "recalibration_batches: 0, expected a whole number, 1 or more"),
        ({"checkpoint_seconds": -1}, "checkpoint_seconds: -1, expected a number, 0 or more"),
        ({"epochs": 0}, "epochs: 0"),
    ],
)
def test_recipes_that_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SupernetConfig(**options)


# Checkpoints


def test_the_checkpoint_of_another_training_is_refused(
    trained: Path, digits: Data, spec: SpaceSpec, config: SupernetConfig
) -> None:
    with pytest.raises(ValueError, match=r"space\.widths \[0\.16, 0\.25\], not \[0\.16\]"):
        train_supernet(replace(spec, widths=(0.16,)), digits, config, checkpoint=trained)
    with pytest.raises(ValueError, match=r"recipe\.epochs 6, not 5; delete it"):
        train_supernet(spec, digits, replace(config, epochs=5), checkpoint=trained)
    others = replace(digits, augmentable=True)
    with pytest.raises(ValueError, match=r"that of another training: data '\w+', not '\w+'; delete it"):
        train_supernet(spec, others, config, checkpoint=trained)


def test_a_damaged_checkpoint_is_refused(
    trained: Path, digits: Data, spec: SpaceSpec, config: SupernetConfig, tmp_path: Path
) -> None:
    whole = trained.read_bytes()
    path = tmp_path / "supernet.safetensors"
    for size in (0, 7, 8, 500, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"is no whole checkpoint of a supernet .*; delete it"):
            train_supernet(spec, digits, config, checkpoint=path)
    weights = whole[:-1] + bytes([whole[-1] ^ 1])
    step = re.sub(rb'(step\\": )\d', rb"\g<1>9", whole)
    for changed in (weights, step):
        assert changed != whole
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="is damaged: its checksum differs; delete it"):
            train_supernet(spec, digits, config, checkpoint=path)
        assert path.read_bytes() == changed


def test_a_file_that_is_no_checkpoint_is_refused(
    digits: Data, spec: SpaceSpec, config: SupernetConfig, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "supernet.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="is no whole checkpoint of a supernet"):
        train_supernet(spec, digits, config, checkpoint=path)
    save_file({"weight": torch.zeros(1)}, path, {"dicenas_supernet": json.dumps({"schema_version": 9})})
    with pytest.raises(ValueError, match="schema version 9, this dicenas reads 2"):
        train_supernet(spec, digits, config, checkpoint=path)


def test_digests_tell_datasets_apart(digits: Data) -> None:
    digest = digits.digest()
    assert digest == replace(digits).digest()
    swapped = replace(digits, train=digits.val, val=digits.train)
    others = [data.digest() for data in (swapped, digits.at_size(9))]
    assert len({digest, *others}) == 3
