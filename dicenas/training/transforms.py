"""Augmentation: what is done to each image where it is decoded, and to whole batches on the device."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dicenas.evaluation.augment import random_shift_flip
from dicenas.training.recipes import Recipe

__all__ = ["BatchAugmentation", "Transform", "derived_seed", "training_transform", "validation_transform"]

#: Turns a PIL image, or an image as a tensor, into uint8 ``(3, H, W)``.
Transform: TypeAlias = Callable[[Any], Tensor]


def derived_seed(*parts: object) -> int:
    """Return a seed that only ``parts`` decide, in this process and any other.

    Every random number of a training comes from such a seed: of an image in an epoch, or of a step in a process. A
    training that goes on in the middle of an epoch therefore needs to know where it was, and nothing else.
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def training_transform(recipe: Recipe, image_size: int, *, sized: bool = False) -> Transform | None:
    """Return what is done to each training image.

    Args:
        recipe: Says how images are cropped, and whether RandAugment follows.
        image_size: Height and width that comes out, in pixels.
        sized: Whether images have this size already, so that nothing need be done to them.

    Returns:
        The transform, which draws from torch's global generator; None where nothing is to be done.
    """
    from torchvision.transforms import v2

    steps: list[Any] = []
    if recipe.crop == "resized":
        steps.append(v2.RandomResizedCrop(image_size, scale=recipe.crop_scale, antialias=True))
    elif not sized:
        steps.append(validation_transform(image_size, 1.0))
    if steps or recipe.rand_augment is not None:
        steps.append(v2.PILToTensor())
    if recipe.rand_augment is not None:
        steps.append(v2.RandAugment(magnitude=recipe.rand_augment))
    return v2.Compose(steps) if steps else None


def validation_transform(image_size: int, center_crop: float) -> Transform:
    """Return what is done to each validation image: resizing, and the square in its middle.

    Args:
        image_size: Height and width that comes out, in pixels.
        center_crop: Share of the shorter side that is seen.
    """
    from torchvision.transforms import v2

    resized = max(image_size, round(image_size / center_crop))
    return v2.Compose([v2.Resize(resized, antialias=True), v2.CenterCrop(image_size), v2.PILToTensor()])


class BatchAugmentation:
    """What is done to a batch on the device: shifts, flips, mixup.

    Args:
        recipe: Says what.
        num_classes: Number of classes.
        augmentable: Whether images may be shifted and mirrored at all.
    """

    def __init__(self, recipe: Recipe, num_classes: int, augmentable: bool) -> None:
        from torchvision.transforms import v2

        self.shift = recipe.crop == "shift" and augmentable
        self.flip = recipe.flip and augmentable
        self.mixup = v2.MixUp(alpha=recipe.mixup, num_classes=num_classes) if recipe.mixup else None

    def geometry(self, images: Tensor, seed: int) -> Tensor:
        """Shift and mirror images.

        Args:
            images: uint8, shape ``(N, 3, H, W)``.
            seed: Fixes the random numbers.
        """
        generator = torch.Generator().manual_seed(seed)
        return random_shift_flip(images, images.shape[-1] // 8 if self.shift else 0, generator, self.flip)

    def mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix images, and their labels, in pairs; draws from torch's global generator.

        Returns:
            Images, and labels as they came or as probabilities ``(N, num_classes)``.
        """
        if self.mixup is None:
            return images, labels
        mixed: tuple[Tensor, Tensor] = self.mixup(images, labels)
        return mixed
