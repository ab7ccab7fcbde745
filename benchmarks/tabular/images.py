"""CIFAR-10 for the tabular benchmark: three parts, decoded once from the archives of image files."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dicenas.evaluation import Data, MemoryImages

from .table import Recipe

__all__ = ["default_folder", "load_parts"]

_ROOT = Path(__file__).resolve().parents[2]


def default_folder() -> Path:
    """Return the folder of the archives: ``data`` of the reference data, which ``DICENAS_REFERENCE`` names."""
    return Path(os.environ.get("DICENAS_REFERENCE", _ROOT.parent / "shared")) / "data"


def load_parts(folder: Path, recipe: Recipe) -> tuple[Data, Data, str]:
    """Read the images of a recipe in their own size; :meth:`~dicenas.evaluation.Data.at_size` gives others.

    Args:
        folder: Holds ``cifar10-train.zip`` and ``cifar10-test.zip``, one folder of image files for each class.
        recipe: Says how many images of each class.

    Returns:
        Training and validation images; the same with the test images in the validation images' place; the digest of
        the files read.

    Raises:
        FileNotFoundError: An archive is not there.
        ValueError: An archive has too few images, or damaged ones.
    """
    digest = hashlib.sha256()
    first, last = slice(0, recipe.train_per_class), slice(-recipe.val_per_class, None)
    train_archive, test_archive = folder / "cifar10-train.zip", folder / "cifar10-test.zip"
    classes, train, train_labels = _read(train_archive, first, recipe.train_per_class + recipe.val_per_class, digest)
    _, val, val_labels = _read(train_archive, last, recipe.val_per_class, digest)
    _, test, test_labels = _read(test_archive, slice(0, recipe.test_per_class), recipe.test_per_class, digest)
    pixels = train.double() / 255
    mean, std = pixels.mean((0, 2, 3)).tolist(), pixels.std((0, 2, 3)).tolist()
    trained = MemoryImages(train, train_labels, train.shape[-1])
    data = [
        Data(
            trained, MemoryImages(images, labels, images.shape[-1]), classes, tuple(mean), tuple(std), augmentable=True
        )
        for images, labels in ((val, val_labels), (test, test_labels))
    ]
    return data[0], data[1], digest.hexdigest()[:16]


def _read(path: Path, chosen: slice, needed: int, digest: hashlib._Hash) -> tuple[tuple[str, ...], Tensor, Tensor]:
    with ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if not name.endswith("/"))
        classes = tuple(sorted({name.partition("/")[0] for name in names}))
        images, labels = [], []
        for label, class_name in enumerate(classes):
            of_class = [name for name in names if name.startswith(f"{class_name}/")]
            if len(of_class) < needed:
                raise ValueError(f"{path}: {len(of_class)} images of {class_name}, the recipe needs {needed}")
            for name in of_class[chosen]:
                content = archive.read(name)
                digest.update(name.encode() + b"\0" + content)
                images.append(_decode(content))
                labels.append(label)
    return classes, torch.stack(images), torch.tensor(labels)


def _decode(content: bytes) -> Tensor:
    with Image.open(io.BytesIO(content)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
