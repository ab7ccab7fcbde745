"""Finding out what a dataset is, and opening it for training."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import torch
from torch import Tensor

from dicenas.evaluation.data import IMAGENET_MEAN, IMAGENET_STD, DataConfig
from dicenas.evaluation.datasets import load_data
from dicenas.evaluation.folders import IMAGE_EXTENSIONS, check_tree, find_tree, list_images
from dicenas.evaluation.images import FileImages, Images, MemoryImages
from dicenas.evaluation.sampling import stratified_split
from dicenas.training.image_files import FolderFiles, ZipFiles
from dicenas.training.image_sets import FileSet, ImageSet, MemorySet
from dicenas.training.recipes import Recipe
from dicenas.training.shards import ParquetShard, Shard, TarShard
from dicenas.training.streams import ShardSet
from dicenas.training.transforms import Transform, training_transform, validation_transform

__all__ = ["TrainingData", "open_data"]

_MEMORY_LIMIT = 2**30  # bytes of decoded images of both parts; larger sets are decoded anew in each epoch
_VAL_FRACTION = 0.2
_CIFAR_ARCHIVES = {"cifar-10-batches-py": "CIFAR10", "cifar-100-python": "CIFAR100"}
_SHARDS = {".tar": TarShard, ".parquet": ParquetShard}
_CLASS_LIST = "classes.txt"

_Part = TypeVar("_Part")


@dataclass(frozen=True, eq=False)
class TrainingData:
    """A dataset that is open for training.

    Attributes:
        train: Images to train on.
        val: Images to validate on, none of them in ``train``.
        class_names: Name of each class, by index.
        image_size: Height and width in pixels of the images handed out.
        train_transform: What is done to each training image, if anything.
        val_transform: What is done to each validation image, if anything.
        mean: Mean of each channel, 0 to 1, that images are normalised with.
        std: Standard deviation of each channel.
        augmentable: Whether images may be shifted and mirrored; digits may not.
    """

    train: ImageSet
    val: ImageSet
    class_names: tuple[str, ...]
    image_size: int
    train_transform: Transform | None = None
    val_transform: Transform | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    augmentable: bool = True

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def digest(self) -> str:
        """Hexadecimal digest that changes where images are added, removed, renamed or relabelled."""
        parts = (self.train.digest, self.val.digest, *self.class_names)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    @property
    def identity(self) -> dict[str, Any]:
        """What tells the dataset from another one, as plain data."""
        return {"train images": len(self.train), "validation images": len(self.val), "digest": self.digest}

    def normalize(self, images: Tensor) -> Tensor:
        """Normalise images, 0 to 1, shape ``(N, 3, H, W)``, on any device; they come out in channels_last."""
        mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (self.mean, self.std))
        return images.sub(mean).div_(std).contiguous(memory_format=torch.channels_last)


def open_data(
    source: str | os.PathLike[str] | DataConfig, recipe: Recipe, image_size: int, *, workers: int = 0
) -> TrainingData:
    """Open a dataset; sets that fit in memory are decoded once, if the recipe crops no parts out of the files.

    Args:
        source: ``digits``; a folder that holds CIFAR's Python archive, class folders, a ``train`` and a ``val`` (or
            ``test``) folder of them or zip archive of them, or shards named so (``train-0001.tar`` with ``KEY.jpg``
            and ``KEY.cls``, or ``train-00000-of-00005.parquet``); a zip archive of class folders; or the
            description of a dataset as searches have it.
        recipe: Says how images are cropped.
        image_size: Height and width of the images handed out, in pixels.
        workers: Processes that decode images; 0 decodes in this one.

    Raises:
        ValueError: There is no such dataset, or it is incomplete or damaged; the message says where.
    """
    if isinstance(source, DataConfig) or str(source) == "digits":
        config = source if isinstance(source, DataConfig) else DataConfig("digits")
        return _searched(config, recipe, image_size)
    root = Path(source).expanduser()
    if not root.exists():
        raise ValueError(f"data: {root} does not exist (expected a folder of images, or 'digits')")
    for name, dataset in _CIFAR_ARCHIVES.items():
        if root.name == name or (root / name).is_dir():
            return _cifar(root.parent if root.name == name else root, dataset, recipe, image_size)
    zips = [root] if root.suffix == ".zip" else sorted(root.glob("*.zip")) if root.is_dir() else []
    if any(_part(path.stem) == "train" for path in zips) or root in zips:
        train, val, names = _zipped(zips)
        return _from_files(train, val, names, recipe, image_size, workers)
    if not root.is_dir():
        raise ValueError(f"data: {root} is a file, expected a folder, or a zip archive of class folders")
    if shards := _find_shards(root):
        return _sharded(root, shards, recipe, image_size)
    train, val, names = _folders(root)
    return _from_files(train, val, names, recipe, image_size, workers)


def _searched(config: DataConfig, recipe: Recipe, image_size: int) -> TrainingData:
    """Open a dataset as searches do, at the size at which the network is trained."""
    data = load_data(
        DataConfig(
            config.dataset,
            config.root,
            image_size,
            config.train_limit,
            config.val_limit,
            config.val_fraction,
            config.seed,
        )
    )
    train, val = (_as_set(images, Path(config.root or "")) for images in (data.train, data.val))
    sized = isinstance(train, MemorySet)
    return TrainingData(
        train,
        val,
        data.class_names,
        image_size,
        training_transform(recipe, image_size, sized=sized) if data.augmentable else None,
        validation_transform(image_size, 1.0),
        data.mean,
        data.std,
        data.augmentable,
    )


def _as_set(images: Images, root: Path) -> MemorySet | FileSet:
    if isinstance(images, FileImages):
        names = [path.relative_to(root.expanduser()).as_posix() for path in images.paths]
        return FileSet(FolderFiles(root.expanduser(), names), images.labels)
    assert isinstance(images, MemoryImages)
    if images.images.shape[-1] != images.image_size:
        raise ValueError(
            f"data: {root} does not fit in memory at {images.image_size} pixels; train on a folder of files"
        )
    return MemorySet(images.images, images.labels)


def _cifar(root: Path, dataset: str, recipe: Recipe, image_size: int) -> TrainingData:
    import torchvision.datasets

    parts = []
    names: tuple[str, ...] = ()
    for train in (True, False):
        try:
            archive = getattr(torchvision.datasets, dataset)(root, train=train)
        except RuntimeError as error:  # torchvision compares checksums before it unpickles
            message = f"data: the files of {dataset} in {root} are damaged or incomplete"
            raise ValueError(message) from error
        images = torch.from_numpy(archive.data).permute(0, 3, 1, 2)
        if images.shape[-1] != image_size:
            raise ValueError(f"data: {dataset} has images of {images.shape[-1]} pixels; give --image-size 32")
        parts.append(MemorySet(images, torch.tensor(archive.targets)))
        names = tuple(archive.classes)
    train_images, val_images = parts
    transform = training_transform(recipe, image_size, sized=True)
    return TrainingData(train_images, val_images, names, image_size, transform)


def _folders(root: Path) -> tuple[FileSet, FileSet, tuple[str, ...]]:
    tree = find_tree(root)
    if problems := check_tree(tree):
        raise ValueError("\n".join(f"data: {problem.removeprefix('root: ')}" for problem in problems))
    class_names, paths, listed = list_images(tree.train)
    files = FolderFiles(tree.train, [path.relative_to(tree.train).as_posix() for path in paths])
    labels = torch.tensor(listed)
    if tree.val is None:
        return *_split(files, labels), class_names
    _, paths, listed = list_images(tree.val)
    val_files = FolderFiles(tree.val, [path.relative_to(tree.val).as_posix() for path in paths])
    return FileSet(files, labels), FileSet(val_files, torch.tensor(listed)), class_names


def _zipped(paths: Sequence[Path]) -> tuple[FileSet, FileSet, tuple[str, ...]]:
    parts: dict[str, tuple[ZipFiles, Tensor, tuple[str, ...]]] = {}
    for path in paths:
        # An archive that comes alone is all there is, whatever its name.
        part = "train" if len(paths) == 1 else _part(path.stem) or "train"
        if part in parts:
            raise ValueError(f"data: {path} and {parts[part][0].path} are both for '{part}'; keep one of them")
        try:
            with zipfile.ZipFile(path) as archive:
                listed = sorted(info.filename for info in archive.infolist() if not info.is_dir())
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"data: {path}: {error}") from error
        images = [name for name in listed if _is_image(PurePosixPath(name))]
        if len(tops := sorted({str(PurePosixPath(name).parent.parent) for name in images})) > 1:
            raise ValueError(f"data: {path} has class folders in {tops[0]} and in {tops[1]}; make an archive of each")
        classes = tuple(sorted({PurePosixPath(name).parent.name for name in images}))
        if len(classes) < 2 or "" in classes:
            raise ValueError(f"data: {path} has no class folders, expected CLASS/image.jpg for two classes or more")
        numbers = {name: index for index, name in enumerate(classes)}
        labels = torch.tensor([numbers[PurePosixPath(name).parent.name] for name in images])
        parts[part] = ZipFiles(path, images), labels, classes
    parts = _validated(parts)
    files, labels, classes = parts["train"]
    if "val" not in parts:
        return *_split(files, labels), classes
    val_files, val_labels, val_classes = parts["val"]
    if val_classes != classes:
        differ = ", ".join(sorted(set(classes) ^ set(val_classes)))
        raise ValueError(f"data: {files.path} and {val_files.path} differ in their classes: {differ}")
    return FileSet(files, labels), FileSet(val_files, val_labels), classes


def _is_image(name: PurePosixPath) -> bool:
    # macOS puts a file of its own beside each.
    hidden = any(part.startswith((".", "__MACOSX")) for part in name.parts)
    return name.suffix.lower() in IMAGE_EXTENSIONS and not hidden


def _split(files: FolderFiles | ZipFiles, labels: Tensor) -> tuple[FileSet, FileSet]:
    """Keep a fifth of the images for validation, the same for every seed of a training."""
    train, val = stratified_split(labels, _VAL_FRACTION)
    return FileSet(files, labels, train), FileSet(files, labels, val)


def _from_files(
    train: FileSet, val: FileSet, names: tuple[str, ...], recipe: Recipe, image_size: int, workers: int
) -> TrainingData:
    small = (len(train) + len(val)) * 3 * image_size**2 <= _MEMORY_LIMIT
    if recipe.crop == "resized" or not small:
        seen = training_transform(recipe, image_size), validation_transform(image_size, recipe.center_crop)
        return TrainingData(train, val, names, image_size, *seen)
    whole = validation_transform(image_size, recipe.center_crop)
    transform = training_transform(recipe, image_size, sized=True)
    return TrainingData(train.load(whole, workers), val.load(whole, workers), names, image_size, transform)


def _find_shards(root: Path) -> dict[str, list[Path]]:
    """Return shards by the part that their names, or those of their folders, say."""
    found: dict[str, list[Path]] = {}
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        for path in sorted(folder.iterdir()):
            if path.suffix in _SHARDS:
                part = _part(path.stem) or _part(folder.name)
                if part is None:
                    raise ValueError(f"data: {path}: neither it nor its folder is named train, val or test")
                found.setdefault(part, []).append(path)
    return _validated(found)


def _sharded(root: Path, paths: dict[str, list[Path]], recipe: Recipe, image_size: int) -> TrainingData:
    for part in ("train", "val"):
        if part not in paths:
            raise ValueError(f"data: {root} has no shards named {part}, such as {part}-00000.tar")
    shards: dict[str, list[Shard]] = {part: [_SHARDS[p.suffix](p) for p in files] for part, files in paths.items()}
    train, val = ShardSet(shards["train"]), ShardSet(shards["val"])
    count = 1 + max(int(train.labels.max()), int(val.labels.max()))
    names = shards["train"][0].class_names or tuple(map(str, range(count)))
    if (listed := root / _CLASS_LIST).is_file():
        names = tuple(listed.read_text(encoding="utf-8").split("\n"))
        names = names[:-1] if names[-1] == "" else names
    if len(names) < max(2, count):
        raise ValueError(f"data: {root}: images of class {count - 1}, but only {len(names)} classes have names")
    transforms = training_transform(recipe, image_size), validation_transform(image_size, recipe.center_crop)
    return TrainingData(train, val, names, image_size, *transforms)


def _part(name: str) -> str | None:
    """Return which part of a dataset a file or folder is, by its name: ``train``, ``val`` or ``test``."""
    words = name.lower().replace("_", "-").replace(".", "-").split("-")
    # `validation` is `val`, too.
    return next((part for part in ("train", "val", "test") if any(word.startswith(part) for word in words)), None)


def _validated(parts: dict[str, _Part]) -> dict[str, _Part]:
    """Take the test part to validate on where there is no other; it may have no labels where there is one."""
    test = {"val": parts["test"]} if "test" in parts and "val" not in parts else {}
    return {name: part for name, part in parts.items() if name != "test"} | test
