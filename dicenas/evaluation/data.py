"""What to train on: the description of a dataset, and the dataset itself."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dicenas.evaluation.images import Images

__all__ = ["DATASETS", "IMAGENET_MEAN", "IMAGENET_STD", "Data", "DataConfig"]

DATASETS = ("digits", "cifar10", "imagefolder")

#: Mean and standard deviation of ImageNet's images for each channel, on the scale of 0 to 1. Published networks take
#: images that are normalised with them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_DIGEST_IMAGES = 256  # images of each part that a digest looks at


@dataclass(frozen=True)
class DataConfig:
    """Describes a dataset; ``check_data`` says what is wrong with it and ``load_data`` reads it.

    Attributes:
        dataset: ``digits`` (scikit-learn's 1,797 handwritten digits of 8x8 pixels, nothing to download),
            ``cifar10`` or ``imagefolder``.
        root: Folder of the images; none for ``digits``. For ``cifar10`` the folder that holds the standard
            archive's ``cifar-10-batches-py``, or class folders as for ``imagefolder``. For ``imagefolder``
            the folder that holds one folder of images for each class, or ``train`` and ``val`` (or ``test``)
            folders that do.
        image_size: Height and width that the images are resized to, in pixels.
        train_limit: Number of training images, as many of each class as of any other; all where it is None.
        val_limit: The same for validation images.
        val_fraction: Share of the images that is kept for validation where the folders have no such part.
        seed: Fixes which images are kept for validation and which are left out by the limits.
    """

    dataset: str = "digits"
    root: str | os.PathLike[str] | None = None
    image_size: int = 32
    train_limit: int | None = None
    val_limit: int | None = None
    val_fraction: float = 0.2
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Data:
    """A loaded dataset.

    Attributes:
        train: Images to train on.
        val: Images to validate on, none of them in ``train``.
        class_names: Name of each class, by index.
        mean: Mean of the training images for each channel, on the scale of 0 to 1.
        std: Standard deviation of the training images for each channel, on the same scale.
        augmentable: Whether training images are shifted and mirrored where a recipe asks for it; digits are
            not, as a mirrored digit is none.
    """

    train: Images
    val: Images
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    augmentable: bool
    _resized: dict[int, Data] = field(default_factory=dict, init=False, repr=False)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Height and width of the images, in pixels."""
        return self.train.image_size

    def at_size(self, image_size: int) -> Data:
        """Return the same dataset in another height and width, in pixels: that of a network to be trained.

        Images in memory are resized once for each size.
        """
        if image_size == self.image_size:
            return self
        if image_size not in self._resized:
            train, val = self.train.at_size(image_size), self.val.at_size(image_size)
            self._resized[image_size] = replace(self, train=train, val=val)
        return self._resized[image_size]

    def digest(self) -> str:
        """Return what datasets share whose labels, normalisation and a sample of whose images agree; hexadecimal."""
        digest = hashlib.sha256(repr((self.class_names, self.mean, self.std, self.augmentable)).encode())
        for part in (self.train, self.val):
            digest.update(f"{len(part)} {part.image_size}".encode())
            digest.update(part.labels.numpy().tobytes())
            sample = torch.arange(0, len(part), max(1, len(part) // _DIGEST_IMAGES))
            for images, _ in part.batches(sample, _DIGEST_IMAGES):
                digest.update(images.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def normalize(self, images: Tensor) -> Tensor:
        """Turn images into what networks take.

        Args:
            images: uint8, shape ``(N, 3, H, W)``, on any device.

        Returns:
            float32, same shape, about zero mean and unit variance for each channel of the training images.
        """
        mean = torch.tensor(self.mean, device=images.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(3, 1, 1)
        return images.float().div_(255).sub_(mean).div_(std)
