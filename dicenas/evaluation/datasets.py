"""Reading datasets: the embedded digits, CIFAR-10, folders of images."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import torch
from torch import Tensor

from dicenas.evaluation.data import DATASETS, Data, DataConfig
from dicenas.evaluation.folders import (
    check_tree,
    cifar10_archive,
    count_classes,
    find_tree,
    list_images,
)
from dicenas.evaluation.images import FileImages, Images, MemoryImages, resize_images
from dicenas.evaluation.sampling import balanced_subset, stratified_split
from dicenas.spelling import did_you_mean

__all__ = ["check_data", "load_data"]

_MEMORY_LIMIT = 2**30  # bytes of decoded images of one part; larger parts are read from their files
_STATISTICS_IMAGES = 4096
_SMALLEST_IMAGE = 8
_CIFAR10_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")


def check_data(config: DataConfig) -> list[str]:
    """Say what is wrong with a dataset's description, quickly: files are looked for but none is opened.

    Returns:
        One line for each problem, which begins with the name of the field; none where all is well.
    """
    problems = _check_values(config)
    if config.dataset not in DATASETS:
        known = ", ".join(DATASETS)
        hint = did_you_mean(config.dataset, DATASETS)
        return [f"dataset: {config.dataset!r} is not known{hint} (expected one of {known})", *problems]
    num_classes, source_problems = _check_source(config)
    problems += source_problems
    for name in ("train_limit", "val_limit"):
        limit = getattr(config, name)
        if _is_int(limit) and 0 < limit < num_classes:
            problems.append(f"{name}: {limit}, expected one image for each of the {num_classes} classes at least")
    return problems


def load_data(config: DataConfig) -> Data:
    """Read a dataset.

    Images are decoded once and held in memory where they take 1 GiB at most; a larger part of a dataset is
    read from its files batch by batch. In both cases each image is decoded here once, so that a broken file
    is found now.

    Raises:
        ValueError: The description is wrong (every problem that ``check_data`` finds), or image files cannot
        be
            decoded (by name).
    """
    if problems := check_data(config):
        raise ValueError("\n".join(["the dataset cannot be loaded:", *problems]))
    if config.dataset == "digits":
        train, val, class_names = _digits(config)
    else:
        root = Path(config.root or "").expanduser()
        archive = cifar10_archive(root) if config.dataset == "cifar10" else None
        train, val, class_names = _cifar10(config, archive) if archive else _image_tree(config, root)
    mean, std = _statistics(train)
    return Data(train, val, class_names, mean, std, augmentable=config.dataset != "digits")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_values(config: DataConfig) -> list[str]:
    problems = []
    if not _is_int(config.image_size) or config.image_size < _SMALLEST_IMAGE:
        problems.append(
            f"image_size: {config.image_size!r}, expected a whole number of pixels, {_SMALLEST_IMAGE} or more"
        )
    for name in ("train_limit", "val_limit"):
        limit = getattr(config, name)
        if limit is not None and (not _is_int(limit) or limit < 1):
            problems.append(f"{name}: {limit!r}, expected a positive number of images, or none for all of them")
    fraction = config.val_fraction
    if not isinstance(fraction, int | float) or not 0 < fraction < 1:
        problems.append(f"val_fraction: {fraction!r}, expected a number between 0 and 1")
    if not _is_int(config.seed) or config.seed < 0:
        problems.append(f"seed: {config.seed!r}, expected a whole number, 0 or more")
    return problems


def _check_source(config: DataConfig) -> tuple[int, list[str]]:
    """Return the number of classes, 0 where it is not known, and the problems of the source of the images."""
    if config.dataset == "digits":
        problems = []
        if config.root is not None:
            problems.append(
                f"root: {str(config.root)!r}, but digits come with scikit-learn and have no folder; remove it"
            )
        if importlib.util.find_spec("sklearn") is None:
            problems.append("dataset: digits need scikit-learn, which is not installed; install scikit-learn")
        return 10, problems
    given: object = config.root
    if given is None:
        return 0, [f"root: not given, but {config.dataset} needs the folder that holds its images"]
    if not isinstance(given, str | os.PathLike):
        return 0, [f"root: {given!r}, expected the path of a folder"]
    root = Path(given).expanduser()
    if not root.is_dir():
        return 0, [f"root: {root} is not a folder" if root.exists() else f"root: {root} does not exist"]
    archive = cifar10_archive(root) if config.dataset == "cifar10" else None
    if archive is not None:
        missing = [name for name in _CIFAR10_FILES if not (archive / name).is_file()]
        return 10, [f"root: {archive} lacks {', '.join(missing)}"] if missing else []
    tree = find_tree(root)
    problems = check_tree(tree)
    return 0 if problems else count_classes(tree), problems


def _digits(config: DataConfig) -> tuple[Images, Images, tuple[str, ...]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = torch.from_numpy(digits.target).long()
    # Pixels count the ink of 4x4 dots: 0 to 16.
    images = (torch.from_numpy(digits.images).float().div(16).mul(255)).round().byte().unsqueeze(1)
    # The split is the dataset's own, the same for every seed, so that accuracies can be compared.
    train, val = stratified_split(labels, 0.2)

    def part(positions: Tensor, limit: int | None) -> Images:
        chosen = _limited(labels, positions, limit, config.seed)
        rgb = images[chosen].expand(-1, 3, -1, -1)
        return _in_memory(rgb, labels[chosen], config.image_size)

    return part(train, config.train_limit), part(val, config.val_limit), tuple(map(str, digits.target_names))


def _cifar10(config: DataConfig, archive: Path) -> tuple[Images, Images, tuple[str, ...]]:
    from torchvision.datasets import CIFAR10

    def part(train: bool, limit: int | None) -> tuple[Images, tuple[str, ...]]:
        try:
            dataset = CIFAR10(archive.parent, train=train)
        except RuntimeError as error:  # torchvision compares checksums before it unpickles
            raise ValueError(f"root: the files of {archive} are damaged; unpack the archive again") from error
        labels = torch.tensor(dataset.targets)
        chosen = _limited(labels, torch.arange(len(labels)), limit, config.seed)
        images = torch.from_numpy(dataset.data)[chosen].permute(0, 3, 1, 2)
        return _in_memory(images, labels[chosen], config.image_size), tuple(dataset.classes)

    train, class_names = part(True, config.train_limit)
    val, _ = part(False, config.val_limit)
    return train, val, class_names


def _image_tree(config: DataConfig, root: Path) -> tuple[Images, Images, tuple[str, ...]]:
    tree = find_tree(root)
    class_names, train_paths, train_labels = list_images(tree.train)
    labels = torch.tensor(train_labels)
    if tree.val is None:
        train, val = stratified_split(labels, config.val_fraction, config.seed)
        val_paths, val_labels = train_paths, labels
    else:
        _, val_paths, listed = list_images(tree.val)
        val_labels = torch.tensor(listed)
        train, val = torch.arange(len(labels)), torch.arange(len(val_labels))

    def part(paths: list[Path], labels: Tensor, positions: Tensor, limit: int | None) -> Images:
        chosen = _limited(labels, positions, limit, config.seed)
        files = FileImages([paths[position] for position in chosen.tolist()], labels[chosen], config.image_size)
        if _decoded_bytes(len(files), config.image_size) <= _MEMORY_LIMIT:
            return files.load()
        files.verify()
        return files

    return (
        part(train_paths, labels, train, config.train_limit),
        part(val_paths, val_labels, val, config.val_limit),
        class_names,
    )


def _limited(labels: Tensor, positions: Tensor, limit: int | None, seed: int) -> Tensor:
    """Keep at most ``limit`` of ``positions``, balanced by class."""
    return positions if limit is None else positions[balanced_subset(labels[positions], limit, seed)]


def _in_memory(images: Tensor, labels: Tensor, image_size: int) -> MemoryImages:
    if _decoded_bytes(len(images), image_size) <= _MEMORY_LIMIT:
        images = resize_images(images, image_size)
    return MemoryImages(images.contiguous(), labels, image_size)


def _decoded_bytes(count: int, image_size: int) -> int:
    return count * 3 * image_size**2


def _statistics(images: Images) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel, 0 to 1, over some thousand images at most."""
    total = torch.zeros(3, dtype=torch.float64)
    squares = torch.zeros(3, dtype=torch.float64)
    order = balanced_subset(images.labels, _STATISTICS_IMAGES)
    for batch, _ in images.batches(order, 256):
        pixels = batch.double() / 255
        total += pixels.mean(dim=(2, 3)).sum(0)
        squares += pixels.square().mean(dim=(2, 3)).sum(0)
    mean = total / len(order)
    # A channel without any contrast is left as it is rather than divided by nothing.
    std = (squares / len(order) - mean.square()).clamp(min=0).sqrt().clamp(min=1 / 255)
    return (mean[0].item(), mean[1].item(), mean[2].item()), (std[0].item(), std[1].item(), std[2].item())
