from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from dicenas.evaluation.segmentation import CITYSCAPES, PASCAL_VOC, ClassMap
from dicenas.report.overlay import draw_segmentation, format_share

PERSON = PASCAL_VOC.classes.index("person")
CAT = PASCAL_VOC.classes.index("cat")


def class_map(height: int, width: int, num_classes: int = 21) -> ClassMap:
    """Background, but for the right half, which is a person above and a cat below."""
    scores = torch.zeros(num_classes, height, width)
    scores[0] = 1
    scores[PERSON, : height // 2, width // 2 :] = 2
    scores[CAT, height // 2 :, width // 2 :] = 2
    return ClassMap(scores)


def photo(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (100, 150, 200))


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_classes_are_blended_and_the_background_is_not(alpha: float) -> None:
    picture = np.asarray(draw_segmentation(photo(400, 300), class_map(30, 40), PASCAL_VOC, alpha)).astype(float)
    original = np.array([100, 150, 200])
    for (x, y), index in {(100, 150): 0, (300, 75): PERSON, (300, 225): CAT}.items():
        opacity = alpha if index else 0
        expected = (1 - opacity) * original + opacity * np.array(PASCAL_VOC.colors[index])
        assert np.abs(picture[y, x] - expected).max() <= 1
    # The line where the classes end, on the side of the background.
    border = (picture[75, 180:200] - original).max(0)
    assert (border > 0).all() == (alpha > 0)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1200, 400), (300, 900), (40, 30), (1, 1)])
def test_photo_keeps_its_size_above_the_legend(width: int, height: int) -> None:
    picture = draw_segmentation(photo(width, height), class_map(16, 16), PASCAL_VOC, alpha=0)
    assert picture.width >= width
    assert picture.height > height
    left = (picture.width - width) // 2
    assert np.array_equal(picture.crop((left, 0, left + width, height)), photo(width, height))
    assert picture.width <= max(width, 250)


def test_legend_has_an_entry_for_each_class_found() -> None:
    picture = np.asarray(draw_segmentation(photo(640, 480), class_map(16, 16), PASCAL_VOC))
    legend = {tuple(color) for color in picture[480:].reshape(-1, 3)}
    assert {PASCAL_VOC.colors[PERSON], PASCAL_VOC.colors[CAT]} <= legend
    assert PASCAL_VOC.colors[1] not in legend


@pytest.mark.parametrize("width", [60, 300, 500, 1000, 3000])
def test_legend_of_all_classes_fits_in(width: int) -> None:
    scores = torch.eye(20)[:, None, :].repeat(1, 20, 1)
    picture = np.asarray(draw_segmentation(photo(width, 200), ClassMap(scores), CITYSCAPES, caption="a caption"))
    legend = picture[200:]
    for color in CITYSCAPES.colors[:-1]:
        assert (legend == color).all(-1).any(), color
    # Nothing is cut off: there is a margin on all sides.
    assert (legend[:, [0, 1, -2, -1]] == 255).all()
    assert (legend[[0, 1, -2, -1]] == 255).all()


def test_every_painted_class_is_in_the_legend() -> None:
    """Between two classes the resized scores of a third one may be the largest; it must not appear from nowhere."""
    scores = torch.zeros(21, 1, 2)
    scores[PERSON, 0, 0], scores[CAT, 0, 1], scores[0] = 10, 10, 6
    picture = draw_segmentation(photo(200, 100), ClassMap(scores), PASCAL_VOC, alpha=1)
    painted = np.asarray(picture)[:100]
    assert (painted[:, 20] == PASCAL_VOC.colors[PERSON]).all()
    assert (painted[:, -20] == PASCAL_VOC.colors[CAT]).all()
    assert painted[..., 1].max() <= 128  # what is between them is a mixture of the two, nothing of the photo


def test_shares() -> None:
    assert format_share(1, 4) == "25.0 %"
    assert format_share(1, 100_000) == "< 0.1 %"
    assert format_share(7, 7) == "100.0 %"


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_opacity_out_of_range(alpha: float) -> None:
    with pytest.raises(ValueError, match="is not in 0 to 1"):
        draw_segmentation(photo(20, 20), class_map(4, 4), PASCAL_VOC, alpha)
