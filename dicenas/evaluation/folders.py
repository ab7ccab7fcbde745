"""Class folders of images: finding them, and saying what is wrong with them, without opening an image."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "CIFAR10_ARCHIVE",
    "IMAGE_EXTENSIONS",
    "ImageTree",
    "check_tree",
    "cifar10_archive",
    "find_tree",
    "list_images",
]

IMAGE_EXTENSIONS = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

CIFAR10_ARCHIVE = "cifar-10-batches-py"

_TRAIN_FOLDERS = ("train", "cifar10-train")
_VAL_FOLDERS = ("val", "test", "cifar10-test")
_PACKED = (".zip", ".tar", ".gz", ".tgz")


@dataclass(frozen=True)
class ImageTree:
    """Where the class folders lie.

    Attributes:
        train: The folder that holds the class folders to train on.
        val: The same for validation; None where validation images are taken out of ``train``.
    """

    train: Path
    val: Path | None

    @property
    def parts(self) -> tuple[Path, ...]:
        """The folders that hold class folders."""
        return (self.train,) if self.val is None else (self.train, self.val)


def find_tree(root: Path) -> ImageTree:
    """Find the class folders: in ``train`` and ``val`` of ``root`` where it has both, else in itself."""
    train = next((root / name for name in _TRAIN_FOLDERS if (root / name).is_dir()), None)
    val = next((root / name for name in _VAL_FOLDERS if (root / name).is_dir()), None)
    if train is not None and (val is not None or _subfolders(root) == [train]):
        return ImageTree(train, val)
    return ImageTree(root, None)


def cifar10_archive(root: Path) -> Path | None:
    """Return the folder of CIFAR-10's standard archive that ``root`` holds or is, or None."""
    if root.name == CIFAR10_ARCHIVE:
        return root
    return root / CIFAR10_ARCHIVE if (root / CIFAR10_ARCHIVE).is_dir() else None


def check_tree(tree: ImageTree) -> list[str]:
    """Say what is wrong with class folders, from the names of their files alone.

    Returns:
        One line for each problem, none where the images can be loaded.
    """
    problems = []
    for part in tree.parts:
        folders = _subfolders(part)
        if len(folders) > 1:
            problems += [f"root: class folder {folder} has no images" for folder in folders if not _has(folder, 1)]
            continue
        if folders:
            problems.append(f"root: {part} has one class folder only ({folders[0].name}), expected two or more")
        elif packed := sorted(path.name for path in part.iterdir() if path.suffix in _PACKED):
            problems.append(f"root: {part} has no class folders, but {', '.join(packed)}; unpack it first")
        elif any(_images(part)):
            problems.append(f"root: {part} has images but no class folders; put them in a folder for each class")
        else:
            problems.append(f"root: {part} is empty, expected a folder of images for each class")
    if problems:
        return problems
    train_names = [folder.name for folder in _subfolders(tree.train)]
    if tree.val is not None:
        val_names = [folder.name for folder in _subfolders(tree.val)]
        for name in sorted(set(train_names) ^ set(val_names)):
            has, lacks = (tree.train, tree.val) if name in train_names else (tree.val, tree.train)
            problems.append(f"root: class {name} is in {has} but not in {lacks}")
    else:
        problems += [
            f"root: class folder {folder} has one image only, expected one to train and one to validate on"
            for folder in _subfolders(tree.train)
            if not _has(folder, 2)
        ]
    return problems


def count_classes(tree: ImageTree) -> int:
    """Number of class folders."""
    return len(_subfolders(tree.train))


def list_images(folder: Path) -> tuple[tuple[str, ...], list[Path], list[int]]:
    """List the images of class folders.

    Returns:
        The names of the classes in alphabetical order, the image files class by class in alphabetical order,
        and the class index of each file.
    """
    names, paths, labels = [], [], []
    for index, class_folder in enumerate(_subfolders(folder)):
        names.append(class_folder.name)
        images = sorted(_images(class_folder))
        paths += images
        labels += [index] * len(images)
    return tuple(names), paths, labels


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def _images(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith("."):
            yield path


def _has(folder: Path, count: int) -> bool:
    return len(list(itertools.islice(_images(folder), count))) == count
