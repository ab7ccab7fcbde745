"""Digits of 8x8 pixels, and a supernet that was trained on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicenas.evaluation import Data, DataConfig, SupernetConfig, load_data, train_supernet
from dicenas.space import SpaceSpec

SPEC = SpaceSpec(
    "resnet",
    ops=("separable_k3", "dice_k3"),
    widths=(0.16, 0.25),
    depths=((1,), (1, 2), (1,), (1,)),
    stems=("small",),
    resolutions=(8,),
    num_classes=10,
)
CONFIG = SupernetConfig(epochs=6, batch=20, learning_rate=0.1)


@pytest.fixture(scope="session")
def digits() -> Data:
    """600 images to train on and 200 to validate on."""
    return load_data(DataConfig(image_size=8, train_limit=600, val_limit=200))


@pytest.fixture(scope="session")
def trained(digits: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a trained supernet; not to be changed."""
    path = tmp_path_factory.mktemp("supernet") / "supernet.safetensors"
    train_supernet(SPEC, digits, CONFIG, checkpoint=path)
    return path


@pytest.fixture(scope="session")
def spec() -> SpaceSpec:
    """The space of the trained supernet."""
    return SPEC


@pytest.fixture(scope="session")
def config() -> SupernetConfig:
    """The recipe of the trained supernet."""
    return CONFIG
