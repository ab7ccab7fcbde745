"""Recipes of long trainings, as data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from dicenas.spelling import did_you_mean

__all__ = ["RECIPES", "Recipe", "get_recipe", "read_recipe"]

_CHOICES = {
    "schedule": ("cosine", "step"),
    "crop": ("resized", "shift", "center"),
    "amp": ("auto", "off", "bfloat16", "float16"),
}
_NEEDED = ("epochs", "batch", "learning_rate")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained: stochastic gradient descent with momentum, and all that goes with it.

    Attributes:
        epochs: Passes over the training images.
        batch: Images of one optimizer step, all processes together. What is left of an epoch is passed over.
        micro_batch: Images that one process takes at once; gradients are added up until ``batch`` is reached. All of
            a process's share at once where it is None.
        learning_rate: Highest learning rate.
        momentum: Momentum.
        nesterov: Whether the momentum is Nesterov's.
        weight_decay: Weight decay of weights of convolutions and linear layers; biases, normalisations and
            activations have none.
        max_grad_norm: Norm that the gradient of all parameters together is clipped to; None does not clip.
        schedule: How the learning rate falls behind the warm-up: ``cosine`` to zero at the end, or in a ``step`` at
            each of ``decay_at``.
        warmup_epochs: Epochs in which the learning rate rises from zero.
        decay_at: Shares of the training at which ``step`` multiplies the learning rate by ``decay_factor``.
        decay_factor: See ``decay_at``.
        label_smoothing: Share of the target that is spread over all classes.
        ema_decay: Highest decay of the moving average of weights and running statistics that is validated and
            exported in their place; after ``n`` steps the decay is ``1 - n ** (-2 / 3)`` where that is less. None
            takes the weights.
        image_size: Height and width of training and validation images where the network does not say.
        crop: Augmentation by cropping: ``resized`` takes a random part of the image and resizes it, ``shift`` moves
            the image by an eighth of its size at most, ``center`` takes none.
        crop_scale: Smallest and largest share of the image's area that ``resized`` takes.
        flip: Whether half of the training images are mirrored.
        rand_augment: Magnitude of RandAugment, 0 to 30, two operations an image; None leaves it out.
        mixup: Parameter of mixup's Beta distribution; 0 leaves it out.
        center_crop: Share of the sides of a validation image file that is seen.
        amp: Mixed precision: ``auto`` takes it on CUDA and not on the CPU.
        gradient_checkpointing: Whether activations inside blocks are computed again in the backward pass instead of
            being kept: less memory, more time, the same result.
        distillation_weight: Share of the teacher in the loss, where there is one.
        distillation_temperature: Temperature of the teacher's and the network's probabilities.
        seed: Fixes fresh weights, the order of images, augmentation and dropout.

    Raises:
        ValueError: Values out of range, one line for each.
    """

    epochs: int
    batch: int
    learning_rate: float
    micro_batch: int | None = None
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 4e-5
    max_grad_norm: float | None = None
    schedule: str = "cosine"
    warmup_epochs: float = 5.0
    decay_at: tuple[float, ...] = (0.3, 0.6, 0.9)
    decay_factor: float = 0.1
    label_smoothing: float = 0.0
    ema_decay: float | None = None
    image_size: int = 224
    crop: str = "resized"
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    rand_augment: int | None = None
    mixup: float = 0.0
    center_crop: float = 0.875
    amp: str = "auto"
    gradient_checkpointing: bool = False
    distillation_weight: float = 0.5
    distillation_temperature: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        # JSON has lists where the recipe has tuples.
        for name in ("decay_at", "crop_scale"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))
        if problems := self._problems():
            raise ValueError("\n".join(["the recipe is wrong:", *problems]))

    def replace(self, **changes: Any) -> Recipe:
        """Return the recipe with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain data."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}

    def _problems(self) -> list[str]:
        problems = []

        def expect(name: str, fits: bool, what: str) -> None:
            if not fits:
                problems.append(f"{name}: {getattr(self, name)!r}, expected {what}")

        def number(name: str) -> float:
            value = getattr(self, name)
            known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            return float(value) if known else math.nan  # no comparison with NaN holds

        # Batch normalisation needs two images.
        for name, lowest in (("epochs", 1), ("batch", 2), ("micro_batch", 2), ("image_size", 8), ("seed", 0)):
            value = getattr(self, name)
            given = isinstance(value, int) and not isinstance(value, bool)
            optional = name == "micro_batch" and value is None
            expect(name, optional or (given and value >= lowest), f"a whole number, {lowest} or more")
        for name in ("learning_rate", "distillation_temperature"):
            expect(name, number(name) > 0, "a number above 0")
        for name in ("weight_decay", "warmup_epochs", "mixup"):
            expect(name, number(name) >= 0, "a number, 0 or more")
        expect("max_grad_norm", self.max_grad_norm is None or number("max_grad_norm") > 0, "a number above 0, or none")
        expect("momentum", 0 < number("momentum") < 1, "a number above 0 and below 1")
        for name in ("decay_factor", "center_crop"):
            expect(name, 0 < number(name) <= 1, "a number above 0, 1 at most")
        expect("label_smoothing", 0 <= number("label_smoothing") < 1, "a number from 0 to below 1")
        expect("distillation_weight", 0 < number("distillation_weight") <= 1, "a number above 0, 1 at most")
        expect("ema_decay", self.ema_decay is None or 0 < number("ema_decay") < 1, "a number between 0 and 1, or none")
        expect(
            "rand_augment",
            self.rand_augment is None or (isinstance(self.rand_augment, int) and 0 <= self.rand_augment <= 30),
            "a whole number from 0 to 30, or none",
        )
        shares = _numbers(self.decay_at)
        expect("decay_at", shares is not None and all(0 < share < 1 for share in shares), "shares between 0 and 1")
        low, high = scale if (scale := _numbers(self.crop_scale)) is not None and len(scale) == 2 else (0.0, 0.0)
        expect("crop_scale", 0 < low <= high <= 1, "two shares above 0, the smaller one first")
        for name in ("nesterov", "flip", "gradient_checkpointing"):
            expect(name, isinstance(getattr(self, name), bool), "true or false")
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            expect(name, value in choices, f"one of {', '.join(choices)}{did_you_mean(str(value), choices)}")
        expect("warmup_epochs", not number("warmup_epochs") >= number("epochs"), "less than the epochs")
        return problems


def _numbers(values: object) -> tuple[float, ...] | None:
    """Return a tuple of numbers as it is, and None for anything else."""
    fits = isinstance(values, tuple) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return values if fits else None  # type: ignore[return-value]


#: The recipes by name.
#:
#: ``paper-e150`` and ``paper-e300`` follow DiCENet (arXiv 1906.03516): 150 epochs at batch 512; 300 epochs at an
#: effective batch of 2,048 (four GPUs, 128 images each, four accumulations) with a moving average of the weights and
#: label smoothing, whose values are ours. What the paper leaves open is its published code's: crops, flips, momentum
#: without Nesterov, weight decay, and the highest learning rate at batch 512. That code lets the rate fall in cycles;
#: here it falls once, in a cosine, and grows with the batch. The published crops are (0.2, 1) for networks below 80
#: million multiply-adds.
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "paper-e150": Recipe(epochs=150, batch=512, learning_rate=0.5, nesterov=False),
        "paper-e300": Recipe(
            epochs=300,
            batch=2048,
            micro_batch=128,
            learning_rate=2.0,
            nesterov=False,
            label_smoothing=0.1,
            ema_decay=0.9999,
        ),
        "cifar": Recipe(
            epochs=15,
            batch=128,
            learning_rate=0.2,
            weight_decay=5e-4,
            warmup_epochs=2.0,
            max_grad_norm=5.0,
            image_size=32,
            crop="shift",
            center_crop=1.0,
        ),
        "short": Recipe(
            epochs=3,
            batch=64,
            learning_rate=0.05,
            weight_decay=1e-4,
            warmup_epochs=0.3,
            max_grad_norm=5.0,
            image_size=32,
            crop="shift",
            center_crop=1.0,
        ),
    }
)


def get_recipe(name: str, **changes: Any) -> Recipe:
    """Return a recipe by name, with some fields changed.

    Raises:
        ValueError: There is no such recipe (the message names the nearest), no such field, or a value is out of
            range.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}{did_you_mean(name, RECIPES)} (known: {', '.join(RECIPES)})")
    _check_fields(changes)
    return RECIPES[name].replace(**changes)


def read_recipe(given: str | Mapping[str, Any]) -> Recipe:
    """Return a recipe from plain data, such as YAML's.

    Args:
        given: The name of a recipe, or fields of one. Under ``name`` these may have that of a recipe, whose fields
            they change; else ``epochs``, ``batch`` and ``learning_rate`` are among them.

    Raises:
        ValueError: There is no such recipe or field, a field is missing, or a value is out of range.
    """
    if isinstance(given, str):
        return get_recipe(given)
    fields = {field: _number(value) for field, value in given.items()}
    if fields.get("amp") is False:  # what YAML 1.1 makes of `off`
        fields["amp"] = "off"
    name = fields.pop("name", None)
    _check_fields(fields)
    if name is not None:
        return get_recipe(str(name), **fields)
    missing = [field for field in _NEEDED if field not in fields]
    if missing:
        raise ValueError(f"the recipe has no {' and no '.join(missing)}; or give the name of one to change")
    return Recipe(**fields)


def _check_fields(given: Iterable[str]) -> None:
    fields = [field.name for field in dataclasses.fields(Recipe)]
    for field in given:
        if field not in fields:
            raise ValueError(f"a recipe has no {field!r}{did_you_mean(field, fields)} (it has {', '.join(fields)})")


def _number(value: Any) -> Any:
    """Return a number where YAML 1.1 takes one for text: ``4e-5`` has no point, ``1.0e5`` no sign."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
