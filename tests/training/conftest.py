"""Digits as image files in every form that trainings read, and a network that learns them in seconds."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicenas.architecture import Architecture

CLASSES = ("eight", "one", "three", "zero")  # in alphabetical order
DIGITS = (8, 1, 3, 0)
COUNTS = {"train": 24, "val": 6}  # images of each class


def digit_files(part: str) -> Iterator[tuple[str, int, bytes]]:
    """Name, class and PNG of each image of a part, class by class; no two images are the same."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label, digit in enumerate(DIGITS):
        images = digits.images[digits.target == digit]
        images = images[: COUNTS["train"]] if part == "train" else images[COUNTS["train"] :][: COUNTS["val"]]
        for number, pixels in enumerate(images):
            buffer = io.BytesIO()
            Image.fromarray((pixels * 15).astype("uint8")).save(buffer, "png")
            yield f"{number:03d}.png", label, buffer.getvalue()


def write_folders(root: Path) -> None:
    for part in COUNTS:
        for name, label, data in digit_files(part):
            path = root / part / CLASSES[label] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def write_zips(root: Path) -> None:
    for part, zip_name in (("train", "digits-train.zip"), ("val", "digits-test.zip")):
        with zipfile.ZipFile(root / zip_name, "w") as archive:
            for name, label, data in digit_files(part):
                archive.writestr(f"{CLASSES[label]}/{name}", data)


def add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def write_tars(root: Path) -> None:
    """Four shards of a part; the classes stand in .cls files in some, in .json files in the others."""
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    for part in COUNTS:
        files = list(digit_files(part))
        for shard in range(4):
            with tarfile.open(root / f"{part}-{shard:04d}.tar", "w") as archive:
                for number, (_, label, data) in enumerate(files[shard::4]):
                    key = f"{part}/{number:05d}"
                    add_member(archive, f"{key}.png", data)
                    if shard % 2:
                        add_member(archive, f"{key}.json", json.dumps({"label": label}).encode())
                    else:
                        add_member(archive, f"{key}.cls", str(label).encode())


def write_parquet(root: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    features = {"image": {"_type": "Image"}, "label": {"names": list(CLASSES), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    (root / "data").mkdir()
    for part, name in (("train", "train"), ("val", "validation")):
        files = list(digit_files(part))
        for shard in range(2):
            chosen = files[shard::2]
            table = pa.table(
                {
                    "image": [{"bytes": data, "path": path} for path, _, data in chosen],
                    "label": [label for _, label, _ in chosen],
                }
            )
            path = root / "data" / f"{name}-{shard:05d}-of-00002.parquet"
            pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path, row_group_size=10)


FORMS = {"folders": write_folders, "zips": write_zips, "tars": write_tars, "parquet": write_parquet}


@pytest.fixture(scope="session")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each form of the same images; not to be changed."""
    folders = {}
    for name, write in FORMS.items():
        folders[name] = tmp_path_factory.mktemp(name)
        write(folders[name])
    return folders


@pytest.fixture(scope="session")
def tiny() -> Architecture:
    """A network of three blocks for images of 16 pixels, with dropout and a DiCE unit in it."""
    return Architecture(
        "shufflenetv2",
        0.5,
        (("dice_k3",), ("separable_k3",), ("separable_k3",)),
        stem="small",
        image_size=(16, 16),
        num_classes=4,
    )
