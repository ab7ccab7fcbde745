"""Augmentation of whole batches."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["random_shift_flip"]


def random_shift_flip(images: Tensor, max_shift: int, generator: torch.Generator, flip: bool = True) -> Tensor:
    """Shift each image at random, and mirror half of them where ``flip`` is set.

    A shift is a random crop of the image padded by ``max_shift`` pixels on each side; the padding repeats the
    pixels at the edge. Random numbers are drawn on the CPU, so that a seed means the same on every device.

    Args:
        images: Shape ``(N, C, H, W)``, any dtype and device.
        max_shift: Most pixels that an image moves by in each direction.
        generator: CPU generator of the random numbers.
        flip: Whether images are mirrored.

    Returns:
        Same shape and dtype, in channels_last memory format.
    """
    count, _, height, width = images.shape
    rows = torch.arange(height) + torch.randint(-max_shift, max_shift + 1, (count, 1), generator=generator)
    columns = torch.arange(width) + torch.randint(-max_shift, max_shift + 1, (count, 1), generator=generator)
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    mirrored = (torch.rand(count, 1, generator=generator) < 0.5) & flip
    columns = torch.where(mirrored, columns.flip(1), columns)
    rows, columns = rows.to(images.device), columns.to(images.device)
    each = torch.arange(count, device=images.device)
    # Indexed in this way, the channels come last.
    moved = images[each[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)
