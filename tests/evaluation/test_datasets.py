from __future__ import annotations

import hashlib
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dicenas.evaluation import Data, DataConfig, FileImages, Images, MemoryImages, check_data, load_data
from dicenas.evaluation import datasets as datasets_module
from dicenas.evaluation.images import resize_images


def pixels(images: Images) -> torch.Tensor:
    return torch.cat([batch for batch, _ in images.batches(torch.arange(len(images)), 64)])


def assert_same(first: Data, second: Data) -> None:
    for a, b in ((first.train, second.train), (first.val, second.val)):
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(pixels(a), pixels(b))
    assert (first.mean, first.std, first.class_names) == (second.mean, second.std, second.class_names)


def test_digits() -> None:
    data = load_data(DataConfig())
    assert (len(data.train), len(data.val)) == (1437, 360)
    assert data.class_names == tuple("0123456789")
    assert data.num_classes == 10
    images, labels = next(data.train.batches(torch.tensor([5, 3]), 2))
    assert images.shape == (2, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert torch.equal(labels, data.train.labels[[5, 3]])
    # Every class keeps a fifth of its images for validation.
    share = torch.bincount(data.val.labels) / torch.bincount(torch.cat([data.train.labels, data.val.labels]))
    assert torch.allclose(share, torch.full((10,), 0.2), atol=0.005)
    # No image is on both sides.
    seen = {image.numpy().tobytes() for image in pixels(data.train)}
    assert not any(image.numpy().tobytes() in seen for image in pixels(data.val))
    assert not data.augmentable


def test_digits_keep_their_pixels_at_native_size() -> None:
    from sklearn.datasets import load_digits

    data = load_data(DataConfig(image_size=8))
    original = {
        (image * 255 / 16).round().astype("uint8").tobytes(): int(target)
        for image, target in zip(load_digits().images, load_digits().target, strict=True)
    }
    for images in (data.train, data.val):
        for image, label in zip(pixels(images), images.labels, strict=True):
            assert original[image[0].numpy().tobytes()] == label
            assert torch.equal(image[0], image[2])


def test_normalized_training_images_have_zero_mean_and_unit_variance() -> None:
    data = load_data(DataConfig(image_size=16))
    normalized = data.normalize(pixels(data.train))
    assert normalized.dtype == torch.float32
    assert normalized.mean().item() == pytest.approx(0, abs=1e-4)
    assert normalized.square().mean().item() == pytest.approx(1, abs=1e-4)


def test_images_in_another_size(cifar10_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig("cifar10", cifar10_tree, image_size=32)
    data = load_data(config)
    smaller = data.at_size(12)
    images, labels = next(smaller.train.batches(torch.arange(4), 4))
    assert images.shape == (4, 3, 12, 12)
    assert torch.equal(images, resize_images(next(data.train.batches(torch.arange(4), 4))[0], 12))
    assert torch.equal(labels, data.train.labels[:4])
    assert smaller.val.image_size == smaller.image_size == 12
    assert (smaller.class_names, smaller.mean, smaller.std) == (data.class_names, data.mean, data.std)
    assert data.at_size(12) is smaller
    assert data.at_size(32) is data
    monkeypatch.setattr(datasets_module, "_MEMORY_LIMIT", 0)
    from_files = load_data(config).at_size(12)
    assert isinstance(from_files.val, FileImages)
    assert from_files.val.image_size == 12


def test_limits_are_balanced_and_fixed_by_the_seed() -> None:
    config = DataConfig(image_size=8, train_limit=105, val_limit=30, seed=3)
    data = load_data(config)
    assert set(torch.bincount(data.train.labels).tolist()) == {10, 11}
    assert torch.bincount(data.val.labels).tolist() == [3] * 10
    assert_same(data, load_data(config))
    other = load_data(DataConfig(image_size=8, train_limit=105, val_limit=30, seed=4))
    assert not torch.equal(pixels(data.train), pixels(other.train))


def test_cifar10_class_folders(cifar10_tree: Path) -> None:
    data = load_data(DataConfig("cifar10", cifar10_tree, train_limit=200))
    assert (len(data.train), len(data.val)) == (200, 100)
    assert data.class_names == (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )
    assert torch.bincount(data.train.labels).tolist() == [20] * 10
    first = sorted((cifar10_tree / "test" / "airplane").iterdir())[0]
    with Image.open(first) as image:
        expected = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(32, 32, 3)
    assert torch.equal(pixels(data.val)[0], expected.permute(2, 0, 1))
    # Known statistics of CIFAR-10: mean 0.49, 0.48, 0.45 and std 0.25, 0.24, 0.26.
    assert data.mean == pytest.approx((0.49, 0.48, 0.45), abs=0.05)
    assert data.std == pytest.approx((0.25, 0.24, 0.26), abs=0.05)
    assert data.augmentable


@pytest.mark.parametrize(("dataset", "train", "val"), [
    ("cifar10", "cifar10-train", "cifar10-test"),
    ("imagefolder", "train", "val"),
])  # fmt: skip
def test_names_of_the_parts(dataset: str, train: str, val: str, cifar10_tree: Path, tmp_path: Path) -> None:
    (tmp_path / train).symlink_to(cifar10_tree / "train")
    (tmp_path / val).symlink_to(cifar10_tree / "test")
    config = DataConfig(dataset, tmp_path)
    assert check_data(config) == []
    assert_same(load_data(config), load_data(DataConfig("cifar10", cifar10_tree)))


def test_one_tree_is_split(cifar10_tree: Path) -> None:
    root = cifar10_tree / "train"
    data = load_data(DataConfig("imagefolder", root, val_fraction=0.1, seed=1))
    assert torch.bincount(data.train.labels).tolist() == [27] * 10
    assert torch.bincount(data.val.labels).tolist() == [3] * 10
    assert_same(data, load_data(DataConfig("imagefolder", str(root), val_fraction=0.1, seed=1)))
    other = load_data(DataConfig("imagefolder", root, val_fraction=0.1, seed=2))
    assert not torch.equal(pixels(data.val), pixels(other.val))


def test_images_are_cropped_to_a_square_and_resized(tmp_path: Path) -> None:
    for name, colour in (("red", (250, 0, 0)), ("blue", (0, 0, 250))):
        (tmp_path / name).mkdir()
        for index in range(2):
            image = Image.new("RGB", (90, 40), "white")
            image.paste(colour, (25, 0, 65, 40))  # the square in the middle
            image.save(tmp_path / name / f"{index}.png")
    data = load_data(DataConfig("imagefolder", tmp_path, image_size=16))
    assert data.class_names == ("blue", "red")
    blue, red = (pixels(data.train)[data.train.labels == label][0].permute(1, 2, 0) for label in (0, 1))
    # The filter of the resizing reaches a little beyond the square.
    assert (blue[:, 1:-1] == torch.tensor([0, 0, 250])).all()
    assert (red[:, 1:-1] == torch.tensor([250, 0, 0])).all()


def test_grey_images_and_images_with_alpha_become_rgb(two_classes: Path) -> None:
    source = next((two_classes / "cat").iterdir())
    with Image.open(source) as image:
        image.convert("L").save(two_classes / "cat" / "grey.png")
        image.convert("RGBA").save(two_classes / "cat" / "alpha.png")
    data = load_data(DataConfig("imagefolder", two_classes))
    assert len(data.train) + len(data.val) == 22
    assert pixels(data.train).shape[1:] == (3, 32, 32)


def test_large_sets_are_read_from_their_files(cifar10_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig("cifar10", cifar10_tree, train_limit=40, val_limit=20)
    in_memory = load_data(config)
    assert isinstance(in_memory.train, MemoryImages)
    monkeypatch.setattr(datasets_module, "_MEMORY_LIMIT", 30 * 3 * 32**2)
    streamed = load_data(config)
    assert isinstance(streamed.train, FileImages)
    assert isinstance(streamed.val, MemoryImages)
    state = torch.random.get_rng_state()
    assert_same(in_memory, streamed)
    assert torch.equal(torch.random.get_rng_state(), state)


def standard_archive(tree: Path, root: Path) -> dict[str, str]:
    """Write images of a tree as CIFAR-10's archive stores them; return the checksum of each file."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    names = sorted(path.name for path in (tree / "train").iterdir())
    samples: dict[str, list[tuple[Path, int]]] = {"test_batch": []}
    for label, name in enumerate(names):
        for index, path in enumerate(sorted((tree / "train" / name).iterdir())):
            samples.setdefault(f"data_batch_{index % 5 + 1}", []).append((path, label))
        samples["test_batch"] += [(path, label) for path in sorted((tree / "test" / name).iterdir())]
    contents: dict[str, Any] = {"batches.meta": {"label_names": names}}
    for file, pairs in samples.items():
        images = []
        for path, _ in pairs:
            with Image.open(path) as image:
                images.append(torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8))
        stacked = torch.stack(images).view(-1, 32 * 32, 3).permute(0, 2, 1).reshape(len(pairs), -1)
        contents[file] = {"data": stacked.numpy(), "labels": [label for _, label in pairs]}
    checksums = {}
    for file, content in contents.items():
        (folder / file).write_bytes(pickle.dumps(content))
        checksums[file] = hashlib.md5((folder / file).read_bytes()).hexdigest()
    return checksums


@pytest.fixture
def archive(cifar10_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a standard archive of fewer images, whose checksums torchvision is told."""
    from torchvision.datasets import CIFAR10

    checksums = standard_archive(cifar10_tree, tmp_path)
    monkeypatch.setattr(CIFAR10, "train_list", [[f"data_batch_{i}", checksums[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", checksums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": checksums["batches.meta"]})
    return tmp_path


def test_cifar10_standard_archive(archive: Path, cifar10_tree: Path) -> None:
    data = load_data(DataConfig("cifar10", archive))
    tree = load_data(DataConfig("cifar10", cifar10_tree))
    assert data.class_names == tree.class_names
    assert torch.equal(pixels(data.val), pixels(tree.val))
    assert torch.equal(data.val.labels, tree.val.labels)
    assert torch.bincount(data.train.labels).tolist() == [30] * 10
    assert data.mean == pytest.approx(tree.mean)
    assert_same(data, load_data(DataConfig("cifar10", archive / "cifar-10-batches-py")))
    assert load_data(DataConfig("cifar10", archive, image_size=48)).image_size == 48


def test_images_too_large_for_memory_are_resized_by_the_batch(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig("cifar10", archive, image_size=48)
    resized_before = load_data(config)
    monkeypatch.setattr(datasets_module, "_MEMORY_LIMIT", 0)
    resized_late = load_data(config)
    assert isinstance(resized_late.train, MemoryImages)
    assert resized_late.train.images.shape[-1] == 32
    assert_same(resized_before, resized_late)


def test_damaged_standard_archive(archive: Path) -> None:
    file = archive / "cifar-10-batches-py" / "data_batch_3"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"cifar-10-batches-py are damaged"):
        load_data(DataConfig("cifar10", archive))
    file.unlink()
    assert check_data(DataConfig("cifar10", archive)) == [f"root: {archive / 'cifar-10-batches-py'} lacks data_batch_3"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.95))
def test_truncated_jpeg_is_named(two_classes: Path, share: float) -> None:
    victim = two_classes / "ship" / "broken.jpg"
    content = next((two_classes / "cat").iterdir()).read_bytes()
    victim.write_bytes(content[: int(share * len(content))])
    config = DataConfig("imagefolder", two_classes)
    assert check_data(config) == []
    with pytest.raises(ValueError, match=r"ship/broken\.jpg: cannot be decoded"):
        load_data(config)


def test_truncated_jpeg_is_found_in_sets_that_are_not_held(two_classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets_module, "_MEMORY_LIMIT", 0)
    victim = sorted((two_classes / "ship").iterdir())[-1]
    victim.write_bytes(victim.read_bytes()[:300])
    with pytest.raises(ValueError, match=f"{victim.name}: cannot be decoded"):
        load_data(DataConfig("imagefolder", two_classes))


def test_many_broken_files_are_counted(two_classes: Path) -> None:
    for path in (two_classes / "cat").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match="cannot be decoded") as caught:
        load_data(DataConfig("imagefolder", two_classes, val_fraction=0.05))
    lines = str(caught.value).splitlines()
    assert len(lines) == 7  # a heading, five names, and the number of the others
    assert lines[-1] == "and 4 more"


def problem(config: DataConfig) -> str:
    """The only problem of a config, by which loading fails, too."""
    problems = check_data(config)
    assert len(problems) == 1
    with pytest.raises(ValueError, match="cannot be loaded") as caught:
        load_data(config)
    assert problems[0] in str(caught.value)
    return problems[0]


def test_unknown_dataset_names_the_nearest() -> None:
    assert "dataset: 'digts' is not known; did you mean 'digits'?" in problem(DataConfig("digts"))


def test_root_not_given() -> None:
    assert problem(DataConfig("imagefolder")).startswith("root: not given")
    assert problem(DataConfig("cifar10")).startswith("root: not given")


def test_digits_take_no_root(tmp_path: Path) -> None:
    assert "have no folder" in problem(DataConfig("digits", tmp_path))


def test_missing_folder(tmp_path: Path) -> None:
    assert problem(DataConfig("imagefolder", tmp_path / "none")) == f"root: {tmp_path / 'none'} does not exist"
    (tmp_path / "file").touch()
    assert problem(DataConfig("imagefolder", tmp_path / "file")).endswith("is not a folder")


def test_empty_folder(tmp_path: Path) -> None:
    assert "is empty" in problem(DataConfig("imagefolder", tmp_path))


def test_folder_of_unpacked_archives(reference: Path, tmp_path: Path) -> None:
    (tmp_path / "cifar10-train.zip").symlink_to(reference / "data" / "cifar10-train.zip")
    assert "cifar10-train.zip; unpack it first" in problem(DataConfig("cifar10", tmp_path))


def test_folder_without_class_folders(two_classes: Path) -> None:
    assert "no class folders" in problem(DataConfig("imagefolder", two_classes / "cat"))


def test_one_class(two_classes: Path) -> None:
    shutil.rmtree(two_classes / "ship")
    assert "one class folder only (cat)" in problem(DataConfig("imagefolder", two_classes))


def test_class_without_images(two_classes: Path) -> None:
    (two_classes / "dog").mkdir()
    (two_classes / "dog" / "notes.txt").write_text("no image")
    (two_classes / ".cache").mkdir()
    assert problem(DataConfig("imagefolder", two_classes)).endswith("dog has no images")


def test_class_with_one_image(two_classes: Path) -> None:
    for path in sorted((two_classes / "ship").iterdir())[1:]:
        path.unlink()
    assert "one image only" in problem(DataConfig("imagefolder", two_classes))


def test_parts_with_different_classes(cifar10_tree: Path, two_classes: Path, tmp_path: Path) -> None:
    root = tmp_path / "parts"
    root.mkdir()
    two_classes.rename(root / "train")
    shutil.copytree(root / "train", root / "val")
    (root / "val" / "cat").rename(root / "val" / "dog")
    assert check_data(DataConfig("imagefolder", root)) == [
        f"root: class cat is in {root / 'train'} but not in {root / 'val'}",
        f"root: class dog is in {root / 'val'} but not in {root / 'train'}",
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"image_size": 0}, "image_size: 0, expected"),
        ({"image_size": 32.5}, "image_size: 32.5, expected"),
        ({"train_limit": -3}, "train_limit: -3, expected"),
        ({"val_limit": 0}, "val_limit: 0, expected"),
        ({"train_limit": 9}, "train_limit: 9, expected one image for each of the 10 classes"),
        ({"val_fraction": 1.0}, "val_fraction: 1.0, expected"),
        ({"val_fraction": "half"}, "val_fraction: 'half', expected"),
        ({"seed": -1}, "seed: -1, expected"),
        ({"seed": True}, "seed: True, expected"),
    ],
)
def test_impossible_values(changes: dict[str, Any], expected: str) -> None:
    assert problem(DataConfig(**changes)).startswith(expected)


def test_root_of_another_type() -> None:
    assert problem(DataConfig("imagefolder", 7)).startswith("root: 7, expected the path")  # type: ignore[arg-type]


def test_all_problems_are_found_at_once() -> None:
    problems = check_data(DataConfig("imagefoldr", image_size=-1, val_fraction=2))
    assert [line.split(":")[0] for line in problems] == ["dataset", "image_size", "val_fraction"]
