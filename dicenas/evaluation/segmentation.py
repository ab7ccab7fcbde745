"""What a segmentation network sees in a photo, and what its classes are called."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dicenas.evaluation.data import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "CITYSCAPES",
    "PASCAL_VOC",
    "ClassMap",
    "LabelSet",
    "label_set",
    "read_photo",
    "segment_photo",
]


@dataclass(frozen=True)
class LabelSet:
    """The classes of a dataset, by index.

    Attributes:
        name: The dataset.
        classes: Name of each class.
        colors: Colour of each class in masks, ``(R, G, B)`` in 0 to 255.
        background: Index of the class that stands for everything else.
        size: Height and width at which the published networks look at a photo, in pixels.
    """

    name: str
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...] = field(repr=False)
    background: int = 0
    size: tuple[int, int] = (384, 384)


def _pascal_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """Return PASCAL VOC's colours: every third bit of the index is one of red's, green's, blue's, the highest first."""

    def channel(bits: int) -> int:
        return sum((bits >> 3 * place & 1) << 7 - place for place in range(8))

    return tuple((channel(index), channel(index >> 1), channel(index >> 2)) for index in range(count))


PASCAL_VOC = LabelSet(
    "PASCAL VOC",
    (
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "dining table",
        "dog",
        "horse",
        "motorbike",
        "person",
        "potted plant",
        "sheep",
        "sofa",
        "train",
        "tv monitor",
    ),
    _pascal_colors(21),
)

_CITY_COLORS = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
    "background": (0, 0, 0),
}

#: The 19 classes that Cityscapes evaluates, in its order, and what its annotations leave out.
CITYSCAPES = LabelSet("Cityscapes", tuple(_CITY_COLORS), tuple(_CITY_COLORS.values()), background=19, size=(256, 512))


def label_set(num_classes: int) -> LabelSet:
    """Return the classes of the published networks with this number of them.

    21 classes are PASCAL VOC's and 20 are Cityscapes'; others are numbered, and the first is taken for the background.
    """
    for known in (PASCAL_VOC, CITYSCAPES):
        if num_classes == len(known.classes):
            return known
    names = ("background", *(f"class {index}" for index in range(1, num_classes)))
    return LabelSet(f"{num_classes} classes", names, _pascal_colors(num_classes))


@dataclass(frozen=True, eq=False)
class ClassMap:
    """What a network sees in a photo, at the size at which it looked.

    Attributes:
        scores: Logits on the CPU, float32, shape ``(num_classes, h, w)``.
    """

    scores: Tensor

    @property
    def labels(self) -> Tensor:
        """The likeliest class of each pixel, int64, shape ``(h, w)``."""
        return self.scores.argmax(0)

    def pixels(self) -> dict[int, int]:
        """Return the number of pixels of each class found, the largest first."""
        counts = torch.bincount(self.labels.flatten(), minlength=len(self.scores)).tolist()
        found = [index for index, count in enumerate(counts) if count]
        return {index: counts[index] for index in sorted(found, key=lambda index: -counts[index])}


def read_photo(path: str | Path) -> Image:
    """Read an image file as RGB, turned as its camera was held.

    Args:
        path: A file of any format that Pillow reads; of an animation, the first frame.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is no image, or is cut off or damaged.
    """
    from PIL import Image, ImageOps

    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected an image")
    if not path.is_file():
        raise FileNotFoundError(f"there is no image {path}")
    path.open("rb").close()  # what the system refuses is told in its own words
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    # Pillow's decoders raise any of these for damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no image that can be decoded: {error}") from error


def segment_photo(
    network: nn.Module, photo: Image, size: Sequence[int] = (384, 384), device: torch.device | str = "cpu"
) -> ClassMap:
    """Show a photo to a segmentation network.

    The photo is resized bilinearly by Pillow and normalised with ImageNet's statistics, as published.

    Args:
        network: Images ``(1, 3, h, w)`` to logits ``(1, num_classes, h, w)``; it is moved to the device and put into
            evaluation mode.
        photo: An RGB image.
        size: Height and width that the network sees, in pixels.
        device: Where it runs.
    """
    import numpy as np
    from PIL import Image

    height, width = size
    pixels = np.array(photo.resize((width, height), Image.Resampling.BILINEAR))
    images = torch.from_numpy(pixels).to(device).permute(2, 0, 1).unsqueeze(0).float().div_(255)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        scores = network.to(device).eval()(images.sub_(mean).div_(std))
    return ClassMap(scores[0].float().cpu())
