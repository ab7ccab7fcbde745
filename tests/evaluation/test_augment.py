from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dicenas.evaluation.augment import random_shift_flip


@given(height=st.integers(2, 9), width=st.integers(2, 9), max_shift=st.integers(0, 3), seed=st.integers(0, 99))
def test_every_image_is_a_crop_of_itself_padded_or_of_its_mirror_image(
    height: int, width: int, max_shift: int, seed: int
) -> None:
    images = torch.randint(0, 256, (4, 3, height, width), dtype=torch.uint8)
    moved = random_shift_flip(images, max_shift, torch.Generator().manual_seed(seed))
    assert moved.dtype == torch.uint8
    for image, result in zip(images, moved, strict=True):
        padded = torch.nn.functional.pad(image[None].double(), (max_shift,) * 4, mode="replicate")[0].byte()
        crops = [
            padded[:, top : top + height, left : left + width]
            for top in range(2 * max_shift + 1)
            for left in range(2 * max_shift + 1)
        ]
        assert any(torch.equal(result, crop) or torch.equal(result, crop.flip(-1)) for crop in crops)


def test_images_of_a_batch_move_apart_and_half_are_mirrored() -> None:
    image = torch.arange(3 * 8 * 8, dtype=torch.uint8).view(1, 3, 8, 8)
    moved = random_shift_flip(image.expand(400, -1, -1, -1), 1, torch.Generator().manual_seed(0))
    kinds, counts = torch.unique(moved.flatten(1), dim=0, return_counts=True)
    assert len(kinds) == 2 * 3 * 3
    mirrored = (moved[:, 0, 4, 3] > moved[:, 0, 4, 4]).float().mean().item()
    assert 0.4 < mirrored < 0.6
    assert counts.min() > 5
