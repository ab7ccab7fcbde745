from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from dicenas.cli import main
from dicenas.nets import dicenet, dicenet_segmentation, edgenets


def save(network: torch.nn.Module, path: Path) -> Path:
    own = network.state_dict()
    torch.save({key: own[name] for name, key in edgenets.upstream_keys(network).items()}, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small network of PASCAL VOC's classes, and photos."""
    folder = tmp_path_factory.mktemp("segment")
    torch.manual_seed(0)
    save(dicenet_segmentation(0.1, 21, image_size=64), folder / "small.pth")
    save(dicenet(0.1, image_size=64), folder / "classifier.pth")
    Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1), 50).convert("RGB").save(folder / "photo.png")
    Image.new("CMYK", (50, 70)).save(folder / "cmyk.jpg")
    (folder / "text.jpg").write_text("no photo", encoding="utf-8")
    (folder / "cut.png").write_bytes((folder / "photo.png").read_bytes()[:900])
    return folder


def counts(printed: str) -> dict[str, int]:
    """The table of classes."""
    rows = re.findall(r"^(\S.*?)  +#[0-9a-f]{6} +([\d,]+) ", printed, flags=re.MULTILINE)
    return {name: int(count.replace(",", "")) for name, count in rows}


@pytest.mark.parametrize("photo", ["cats.jpg", "cyclist.jpg", "street.jpg"])
def test_photo_of_the_reference(
    reference: Path, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = reference / "data" / "images" / photo
    weights = reference / "reference/weights/dicenet_s_1.0_pascal_384x384.pth"
    assert main(["segment", str(weights), str(path), "--out", str(tmp_path / "seen.png")]) == 0
    published = yaml.safe_load((reference / "reference/photos.yaml").read_text(encoding="utf-8"))[photo]
    found = counts(capsys.readouterr().out)
    assert sum(found.values()) == 384 * 384
    # A decoder of JPEG may round otherwise; a pixel between two classes then falls to the other.
    for name, count in found.items():
        assert count == pytest.approx(published.get(name, 0), abs=150), name
    assert published.keys() <= found.keys()
    with Image.open(path) as original, Image.open(tmp_path / "seen.png") as picture:
        assert picture.width == original.width
        assert picture.height > original.height


def test_no_photo_of_the_reference_is_forgotten(reference: Path) -> None:
    photos = yaml.safe_load((reference / "reference/photos.yaml").read_text(encoding="utf-8"))
    assert set(photos) == {path.name for path in (reference / "data" / "images").iterdir()}


def test_city_weights_of_the_reference(reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = reference / "reference/weights/dicenet_s_0.5_city_512x256.pth"
    photo = reference / "data/images/street.jpg"
    assert main(["segment", str(weights), str(photo), "--out", str(tmp_path / "seen.png")]) == 0
    printed = capsys.readouterr().out
    assert "Cityscapes, seen at 256 x 512" in printed
    found = counts(printed)
    assert sum(found.values()) == 256 * 512
    assert {"building", "road", "car", "person", "sidewalk", "vegetation"} == set(list(found)[:6])


@pytest.mark.parametrize("photo", ["photo.png", "cmyk.jpg"])
def test_any_photo(folder: Path, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "seen.PNG"
    options = ["--size", "40x56", "--alpha", "0.3"]
    assert main(["segment", str(folder / "small.pth"), str(folder / photo), "--out", str(out), *options]) == 0
    printed = capsys.readouterr().out
    assert "PASCAL VOC, seen at 40 x 56 pixels" in printed
    assert sum(counts(printed).values()) == 40 * 56
    assert printed.endswith(f"picture: {out}\n")
    with Image.open(out) as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["small.pth", "text.jpg", "--out", "NEW/seen.png"], "text.jpg is no image that can be decoded"),
        (["small.pth", "cut.png", "--out", "NEW/seen.png"], "cut.png is no image that can be decoded"),
        (["small.pth", "none.jpg", "--out", "NEW/seen.png"], "there is no image"),
        (["small.pth", ".", "--out", "NEW/seen.png"], "is a folder, expected an image"),
        (["none.pth", "photo.png", "--out", "NEW/seen.png"], "there is no checkpoint file"),
        (["text.jpg", "photo.png", "--out", "NEW/seen.png"], "text.jpg is no checkpoint, or a damaged one"),
        (["classifier.pth", "photo.png", "--out", "NEW/seen.png"], "it holds a classification network"),
        (["small.pth", "photo.png", "--out", "NEW/missing/seen.png"], "there is no folder"),
        (["small.pth", "photo.png", "--out", "NEW/seen.jpg"], "does not end in .png"),
        (["small.pth", "photo.png", "--out", "NEW"], "does not end in .png"),
        (["small.pth", "photo.png", "--out", "photo.png"], "is the photo itself"),
        (["small.pth", "photo.png", "--out", "NEW/seen.png", "--size", "0"], "'0' is neither a number of pixels nor"),
        (["small.pth", "photo.png", "--out", "NEW/seen.png", "--size", "1x2x3"], "'1x2x3' is neither"),
        (["small.pth", "photo.png", "--out", "NEW/seen.png", "--size", "wide"], "'wide' is neither"),
        (["small.pth", "photo.png", "--out", "NEW/seen.png", "--alpha", "2"], "'2' is no number in 0 to 1"),
        (["small.pth", "photo.png", "--out", "NEW/seen.png", "--alpha", "nan"], "'nan' is no number in 0 to 1"),
        (["small.pth", "photo.png", "--out", "NEW/seen.png", "--device", "tpu"], "unknown device 'tpu'"),
        (["small.pth", "photo.png"], "--out"),
    ],
)
def test_bad_input_writes_nothing(
    arguments: list[str],
    message: str,
    folder: Path,
    tmp_path: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert message in refused("segment", *(argument.replace("NEW", str(tmp_path)) for argument in arguments))
    assert list(tmp_path.iterdir()) == []
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_picture_appears_whole_or_not_at_all(
    folder: Path, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "seen.png"
    out.write_bytes(b"the previous picture")

    def full(descriptor: int) -> None:
        raise OSError("no space left on the device")

    monkeypatch.setattr("os.fsync", full)
    command: list[Any] = ["segment", folder / "small.pth", folder / "photo.png", "--out", out, "--size", "32"]
    assert "no space left" in refused(*command)
    assert [path.name for path in tmp_path.iterdir()] == ["seen.png"]
    assert out.read_bytes() == b"the previous picture"


def test_without_pillow(
    folder: Path, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    message = refused("segment", folder / "small.pth", folder / "photo.png", "--out", tmp_path / "seen.png")
    assert "PIL is not installed; pip install 'dicenas[all]'" in message
