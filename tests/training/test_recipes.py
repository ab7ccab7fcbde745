from __future__ import annotations

import json
from typing import Any

import pytest

from dicenas.training import RECIPES, Recipe, get_recipe


def test_the_papers_recipes_are_the_papers() -> None:
    short, long = RECIPES["paper-e150"], RECIPES["paper-e300"]
    assert (short.epochs, short.batch, short.ema_decay, short.label_smoothing) == (150, 512, None, 0.0)
    assert (long.epochs, long.batch, long.micro_batch) == (300, 2048, 128)
    assert long.batch == 4 * 128 * 4  # graphics cards, images each, accumulations
    assert long.ema_decay is not None
    assert long.label_smoothing > 0


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name: str) -> None:
    assert Recipe(**json.loads(json.dumps(RECIPES[name].to_dict()))) == RECIPES[name]


def test_settings_can_be_changed_and_the_recipe_stays() -> None:
    changed = get_recipe("cifar", epochs=7, crop_scale=(0.2, 1.0))
    assert (changed.epochs, changed.crop_scale) == (7, (0.2, 1.0))
    assert RECIPES["cifar"].epochs != 7


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("cifra", {}, "did you mean 'cifar'"),
        ("cifar", {"epoch": 3}, "did you mean 'epochs'"),
        ("cifar", {"epochs": 0}, "epochs: 0, expected a whole number, 1 or more"),
        ("cifar", {"batch": 1.5}, "batch: 1.5"),
        ("cifar", {"learning_rate": "much"}, "learning_rate: 'much', expected a number above 0"),
        ("cifar", {"learning_rate": float("nan")}, "learning_rate: nan"),
        ("cifar", {"momentum": 1.0}, "momentum: 1.0"),
        ("cifar", {"crop": "resize"}, "did you mean 'resized'"),
        ("cifar", {"crop_scale": (1.0, 0.5)}, "crop_scale"),
        ("cifar", {"crop_scale": 0.5}, "crop_scale"),
        ("cifar", {"decay_at": (0.5, 1.5)}, "decay_at"),
        ("cifar", {"epochs": 2, "warmup_epochs": 2}, "warmup_epochs: 2, expected less than the epochs"),
        ("cifar", {"rand_augment": 31}, "rand_augment: 31"),
        ("cifar", {"ema_decay": 1}, "ema_decay: 1"),
        ("cifar", {"flip": "maybe"}, "flip: 'maybe'"),
    ],
)
def test_what_no_recipe_can_be_is_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        get_recipe(name, **changes)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"(?s)epochs: 0.*momentum: 2"):
        get_recipe("short", epochs=0, momentum=2)
