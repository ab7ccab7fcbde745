from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dicenas.evaluation.segmentation import CITYSCAPES, PASCAL_VOC, ClassMap, label_set, read_photo, segment_photo


def test_pascal_colors_are_the_devkit_s() -> None:
    assert len(PASCAL_VOC.classes) == len(PASCAL_VOC.colors) == 21
    colors = dict(zip(PASCAL_VOC.classes, PASCAL_VOC.colors, strict=True))
    assert colors["background"] == (0, 0, 0)
    assert colors["aeroplane"] == (128, 0, 0)
    assert colors["bicycle"] == (0, 128, 0)
    assert colors["cat"] == (64, 0, 0)
    assert colors["person"] == (192, 128, 128)
    assert colors["tv monitor"] == (0, 64, 128)


def test_cityscapes_has_its_19_classes_and_the_background() -> None:
    assert len(CITYSCAPES.classes) == len(CITYSCAPES.colors) == 20
    assert CITYSCAPES.classes.index("person") == 11
    assert CITYSCAPES.classes[CITYSCAPES.background] == "background"
    assert CITYSCAPES.colors[0] == (128, 64, 128)


@pytest.mark.parametrize("num_classes", [2, 19, 20, 21, 22, 256])
def test_label_sets(num_classes: int) -> None:
    labels = label_set(num_classes)
    assert len(labels.classes) == len(labels.colors) == num_classes
    assert len(set(labels.classes)) == num_classes
    assert len(set(labels.colors)) == num_classes
    assert labels.classes[labels.background] == "background"
    assert (labels == PASCAL_VOC) == (num_classes == 21)
    assert (labels == CITYSCAPES) == (num_classes == 20)


def test_pixels_of_each_class_found() -> None:
    scores = torch.zeros(4, 3, 5)
    scores[3, 0] = 1
    scores[1, 1:] = 1
    classes = ClassMap(scores)
    assert classes.labels.tolist() == [[3] * 5, [1] * 5, [1] * 5]
    assert list(classes.pixels().items()) == [(1, 10), (3, 5)]


class Recorder(nn.Module):
    """Gives its input back as three classes."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return x


def test_photos_are_normalised_as_published() -> None:
    network = Recorder()
    classes = segment_photo(network, Image.new("RGB", (60, 40), (255, 0, 128)), size=(8, 12))
    assert network.seen.shape == (1, 3, 8, 12)
    assert classes.scores.shape == (3, 8, 12)
    assert not network.training
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (128 / 255 - 0.406) / 0.225]
    torch.testing.assert_close(classes.scores.mean((1, 2)), torch.tensor(expected))


def test_photo_is_turned_as_the_camera_was_held(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    image = Image.new("RGB", (60, 40))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    assert read_photo(path).size == (40, 60)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("RGBA", "png"), ("P", "gif"), ("L", "jpg"), ("I;16", "png"), ("1", "bmp")]
)
def test_photos_of_any_mode(mode: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo.{suffix}"
    Image.new(mode, (5, 4)).save(path)
    photo = read_photo(path)
    assert (photo.mode, photo.size) == ("RGB", (5, 4))


def test_photo_too_large_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "photo.png"
    Image.new("RGB", (50, 50)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"photo\.png is no image that can be decoded: .*decompression bomb"):
        read_photo(path)
