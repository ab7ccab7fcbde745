"""Real images for the tests of datasets: class folders of CIFAR-10, a few of each class."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


def unpack(archive: Path, folder: Path, count: int) -> None:
    """Unpack the first ``count`` images of each class."""
    with zipfile.ZipFile(archive) as packed:
        names = sorted(name for name in packed.namelist() if name.endswith(".jpg"))
        for class_name in CIFAR10_CLASSES:
            chosen = [name for name in names if name.split("/")[-2] == class_name][:count]
            packed.extractall(folder, chosen)


@pytest.fixture(scope="session")
def cifar10_tree(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train`` with 30 and ``test`` with 10 JPEGs of each class; not to be changed."""
    root = tmp_path_factory.mktemp("cifar10")
    unpack(reference / "data" / "cifar10-train.zip", root / "train", 30)
    unpack(reference / "data" / "cifar10-test.zip", root / "test", 10)
    return root


@pytest.fixture
def two_classes(cifar10_tree: Path, tmp_path: Path) -> Path:
    """A folder of two classes with 10 JPEGs each, to be spoilt."""
    root = tmp_path / "images"
    for name in ("cat", "ship"):
        shutil.copytree(cifar10_tree / "test" / name, root / name)
    return root
