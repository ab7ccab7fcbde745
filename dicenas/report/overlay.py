"""Segmentation as a picture: the classes painted over the photo, and a legend of what was found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from dicenas.evaluation.segmentation import ClassMap, LabelSet

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["draw_segmentation", "format_share"]

_PAPER, _INK, _MUTED, _LINE = "#ffffff", "#1f2328", "#59636e", "#b1bac4"
_SMALLEST_TEXT = 14  # pixels


def draw_segmentation(
    photo: Image, classes: ClassMap, labels: LabelSet, alpha: float = 0.6, caption: str | None = None
) -> Image:
    """Paint what a network sees in a photo over it, with a legend below.

    The background stays as it was photographed; every other class has its colour, and a line where it ends.

    Args:
        photo: The photo, RGB. It is painted in its own size: the network's scores are resized to it, so that the
            borders of classes are smooth.
        classes: What the network sees.
        labels: The names and colours of its classes.
        alpha: Opacity of the colours, 0 to 1.
        caption: A line below the legend.

    Returns:
        The photo with the legend below, as wide as the photo or as the legend needs.

    Raises:
        ValueError: ``alpha`` is not in 0 to 1.
    """
    from PIL import Image

    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha {alpha:g} is not in 0 to 1")
    pixels = classes.pixels()
    painted = _paint(photo, _labels_at(classes, tuple(pixels), (photo.height, photo.width)), labels, alpha)
    legend = _draw_legend(pixels, labels, caption, photo.width, photo.height)
    picture = Image.new("RGB", (max(photo.width, legend.width), photo.height + legend.height), _PAPER)
    picture.paste(painted, ((picture.width - photo.width) // 2, 0))
    picture.paste(legend, (0, photo.height))
    return picture


def format_share(count: int, total: int) -> str:
    """Return a share of pixels in per cent; what is there is never 0."""
    share = 100 * count / total
    return "< 0.1 %" if share < 0.1 else f"{share:.1f} %"


def _labels_at(classes: ClassMap, found: Sequence[int], size: tuple[int, int]) -> Tensor:
    """Return the class of each pixel of the photo, one of those that the network found: uint8, ``size``.

    One class at a time: the scores of all, at the size of a large photo, would take gigabytes.
    """
    best = torch.full(size, -math.inf)
    label = torch.zeros(size, dtype=torch.uint8)
    for index in found:
        score = F.interpolate(classes.scores[None, index : index + 1], size, mode="bilinear")[0, 0]
        label[score > best] = index
        best = torch.maximum(score, best)
    return label


def _paint(photo: Image, label: Tensor, labels: LabelSet, alpha: float) -> Image:
    from PIL import Image, ImageFilter

    palette = torch.tensor(labels.colors, dtype=torch.uint8)
    # Dark classes would end nowhere in dark photos: where the background meets them it is lightened.
    palette[labels.background] = 255
    border = _is_border(label)
    opacity = torch.where(label == labels.background, 0.0, alpha)
    opacity[border] = min(1.0, 1.6 * alpha)
    colors = Image.fromarray(label.numpy())
    colors.putpalette(palette.flatten().tolist())
    smooth = ImageFilter.GaussianBlur(0.7)  # the steps of slanting borders
    mask = Image.fromarray((255 * opacity).round().byte().numpy()).filter(smooth)
    return Image.composite(colors.convert("RGB").filter(smooth), photo, mask)


def _is_border(label: Tensor) -> Tensor:
    """Return where one class meets another, on both sides: bool, the shape of ``label``."""
    reach = max(1, round(min(label.shape) / 500))
    side = 2 * reach + 1
    padded = F.pad(label[None, None].float(), (reach,) * 4, mode="replicate")
    highest, lowest = (
        F.max_pool2d(F.max_pool2d(sign * padded, (side, 1), 1), (1, side), 1)[0, 0].mul_(sign) for sign in (1, -1)
    )
    return highest != lowest


@dataclass(frozen=True)
class _Entry:
    name: str
    share: str
    fill: tuple[int, int, int] | str


def _draw_legend(pixels: dict[int, int], labels: LabelSet, caption: str | None, width: int, height: int) -> Image:
    """Draw the legend of a photo of a width and height: entries in columns, the largest class first."""
    from PIL import Image, ImageDraw, ImageFont

    total = sum(pixels.values())
    entries = [
        _Entry(
            labels.classes[index],
            format_share(count, total),
            _PAPER if index == labels.background else labels.colors[index],
        )
        for index, count in pixels.items()
    ]
    text = max(_SMALLEST_TEXT, round(math.sqrt(width * height) / 42))
    font, small = ImageFont.load_default(text), ImageFont.load_default(0.8 * text)
    line, margin, swatch, gap = round(1.7 * text), text, round(1.4 * text), round(0.6 * text)
    between = 2 * text

    def text_width(texts: Sequence[str]) -> int:
        return math.ceil(max(font.getlength(text) for text in texts))

    def column_width(column: Sequence[_Entry]) -> int:
        names, shares = [entry.name for entry in column], [entry.share for entry in column]
        return swatch + gap + text_width(names) + gap + text_width(shares)

    # As few rows as the photo is wide enough for; the picture is wider than a photo in which no column has room.
    for rows in range(1, len(entries) + 1):
        columns = [entries[start : start + rows] for start in range(0, len(entries), rows)]
        needed = sum(map(column_width, columns)) + between * (len(columns) - 1) + 2 * margin
        if needed <= width:
            break
    if caption:
        needed = max(needed, math.ceil(small.getlength(caption)) + 2 * margin)
    size = (max(width, needed), rows * line + 2 * gap + (line if caption else 0))
    image = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(image)
    left = margin
    for column in columns:
        right = left + column_width(column)
        for row, entry in enumerate(column):
            middle = gap + (row + 0.5) * line
            box = (left, middle - text / 2, left + swatch, middle + text / 2)
            draw.rounded_rectangle(box, text / 5, entry.fill, _LINE, max(1, text // 14))
            draw.text((left + swatch + gap, middle), entry.name, _INK, font, "lm")
            draw.text((right, middle), entry.share, _MUTED, font, "rm")
        left = right + between
    if caption:
        draw.text((margin, gap + (rows + 0.45) * line), caption, _MUTED, small, "lm")
    return image
