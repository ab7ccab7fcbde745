from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from dicenas.training import TrainingData, get_recipe, open_data
from dicenas.training.image_sets import Plan
from dicenas.training.streams import window_order

from .conftest import CLASSES, COUNTS, FORMS, add_member, digit_files, write_folders, write_tars

SMALL = get_recipe("short", batch=8)  # the images in the middle
LARGE = get_recipe("paper-e150", batch=8)  # random parts of them


def counted(batches: list[tuple[Tensor, Tensor]]) -> Counter[tuple[bytes, int]]:
    pairs: Counter[tuple[bytes, int]] = Counter()
    for images, labels in batches:
        pairs.update((image.numpy().tobytes(), int(label)) for image, label in zip(images, labels, strict=True))
    return pairs


def written(part: str) -> Counter[tuple[bytes, int]]:
    """What a part should hold, decoded by Pillow."""
    pairs: Counter[tuple[bytes, int]] = Counter()
    for _, label, data in digit_files(part):
        pixels = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
        pairs[pixels.transpose(2, 0, 1).tobytes(), label] += 1
    return pairs


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_same_images(form: str, forms: dict[str, Path]) -> None:
    data = open_data(forms[form], SMALL, 8)
    assert data.class_names == CLASSES
    assert (len(data.train), len(data.val)) == (4 * COUNTS["train"], 4 * COUNTS["val"])
    assert counted(list(data.val.validation_batches(Plan(0, 7), data.val_transform))) == written("val")
    assert counted(list(data.train.validation_batches(Plan(0, 7), data.val_transform))) == written("train")
    # An epoch takes every image once; of a stream of one lane, too.
    assert counted(list(data.train.training_batches(Plan(0, 8), 3, 0, data.train_transform))) == written("train")


def same(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    return len(first) == len(second) and all(
        a.equal(c) and b.equal(d) for (a, b), (c, d) in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("form", ["folders", "zips", "tars", "parquet"])
def test_an_epoch_goes_on_at_any_step_as_it_would_have(form: str, forms: dict[str, Path]) -> None:
    data = open_data(forms[form], LARGE, 16)
    plan = Plan(1, 4, accumulation=3, rank=1, processes=2)

    def epoch(number: int, step: int) -> list[tuple[Tensor, Tensor]]:
        return list(data.train.training_batches(plan, number, step, data.train_transform))

    whole = epoch(0, 0)
    assert len(whole) == plan.steps(len(data.train)) * plan.accumulation == 12
    assert all(images.shape == (4, 3, 16, 16) for images, _ in whole)
    for step in (1, 3, 4):
        assert same(epoch(0, step), whole[step * plan.accumulation :])
    assert not same(epoch(1, 0), whole)


@pytest.mark.parametrize("form", ["folders", "tars"])
def test_worker_processes_change_nothing(form: str, forms: dict[str, Path]) -> None:
    data = open_data(forms[form], LARGE, 16)
    plan = Plan(1, 4, accumulation=2, workers=2)
    batches = list(data.train.training_batches(plan, 0, 0, data.train_transform))
    # Three batches are behind step 1.5, so that the other worker's turn comes first.
    assert same(list(data.train.training_batches(plan, 0, 1, data.train_transform)), batches[2:])
    if form == "folders":
        alone = Plan(1, 4, accumulation=2)
        assert same(list(data.train.training_batches(alone, 0, 0, data.train_transform)), batches)
    assert sum(len(labels) for _, labels in data.val.validation_batches(plan, data.val_transform)) == len(data.val)


@pytest.mark.parametrize("form", FORMS)
def test_processes_share_the_images(form: str, forms: dict[str, Path]) -> None:
    data = open_data(forms[form], SMALL, 8)
    plans = [Plan(0, 4, rank=rank, processes=2) for rank in range(2)]
    val = [batch for plan in plans for batch in data.val.validation_batches(plan, data.val_transform)]
    assert counted(val) == written("val")
    train = [list(data.train.training_batches(plan, 0, 0, data.train_transform)) for plan in plans]
    assert len(train[0]) == len(train[1]) == 12
    assert counted(train[0]).keys().isdisjoint(counted(train[1]))


def test_a_step_takes_the_same_images_however_many_processes_share_them(forms: dict[str, Path]) -> None:
    data = open_data(forms["zips"], SMALL, 8)
    alone = list(data.train.training_batches(Plan(5, 4, accumulation=2), 0, 0, None))
    pairs = [list(data.train.training_batches(Plan(5, 4, 1, rank, 2), 0, 0, None)) for rank in range(2)]
    assert same([batch for pair in zip(*pairs, strict=True) for batch in pair], alone)


def test_the_digest_sees_what_changed(tmp_path: Path, forms: dict[str, Path]) -> None:
    for form, root in forms.items():
        copy = tmp_path / form
        shutil.copytree(root, copy)
        before = open_data(copy, LARGE, 8).digest
        assert before == open_data(root, LARGE, 8).digest
        if form == "folders":
            (copy / "train" / "one" / "000.png").rename(copy / "train" / "zero" / "moved.png")
        elif form == "zips":
            with zipfile.ZipFile(copy / "digits-train.zip", "a") as archive:
                archive.writestr("one/another.png", next(digit_files("val"))[2])
        else:
            sorted(copy.rglob("*train*"))[0].unlink()
        assert open_data(copy, LARGE, 8).digest != before, form


def test_what_macos_adds_to_archives_is_no_image(tmp_path: Path, forms: dict[str, Path]) -> None:
    copy = Path(shutil.copytree(forms["zips"], tmp_path / "zips"))
    with zipfile.ZipFile(copy / "digits-train.zip", "a") as archive:
        archive.writestr("__MACOSX/one/._000.png", b"Mac OS X")
        archive.writestr("one/._000.png", b"Mac OS X")
    assert open_data(copy, SMALL, 8).digest == open_data(forms["zips"], SMALL, 8).digest


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_archive_that_comes_alone_is_split(part: str, forms: dict[str, Path]) -> None:
    path = forms["zips"] / f"digits-{part}.zip"
    with zipfile.ZipFile(path) as archive:
        count = len(archive.namelist())
    data = open_data(path, SMALL, 8)
    assert len(data.train) + len(data.val) == count
    assert len(data.val) == pytest.approx(count / 5, abs=2)


def test_digits_are_neither_moved_nor_mirrored() -> None:
    data = open_data("digits", SMALL, 16)
    assert not data.augmentable
    assert data.train_transform is None
    assert (len(data.train), data.num_classes) == (1437, 10)


def test_images_without_a_validation_part_are_split(tmp_path: Path) -> None:
    write_folders(tmp_path)
    data = open_data(tmp_path / "train", LARGE, 8)
    assert (len(data.train), len(data.val)) == (76, 20)
    whole = Plan(0, 4)
    seen = [counted(list(part.validation_batches(whole, data.val_transform))) for part in (data.train, data.val)]
    assert seen[0].keys().isdisjoint(seen[1])


@given(st.integers(0, 60), st.integers(1, 20), st.integers(0, 3))
def test_a_window_shuffles_within_its_reach(count: int, window: int, seed: int) -> None:
    order = window_order(count, window, seed)
    assert sorted(order) == list(range(count))
    # When an image is handed out at a place, the reader has read no further than this.
    assert all(number < place + window for place, number in enumerate(order))


# Bad input: what is done to a folder of images, its form, and what is said about it.


def cut_tar(root: Path) -> None:
    path = root / "train-0000.tar"
    path.write_bytes(path.read_bytes()[:-20480])


def compressed_tar(root: Path) -> None:
    path = root / "train-0000.tar"
    data = path.read_bytes()
    with tarfile.open(path, "w:gz") as archive:
        add_member(archive, "0.png", data)


def classless_image(root: Path) -> None:
    with tarfile.open(root / "train-0000.tar", "a") as archive:
        add_member(archive, "train/lonely.png", b"")


def wordy_class(root: Path) -> None:
    with tarfile.open(root / "train-0000.tar", "a") as archive:
        add_member(archive, "train/a.png", b"")
        add_member(archive, "train/a.cls", b'"zero"')


def unnamed_class(root: Path) -> None:
    (root / "classes.txt").write_text("one\ntwo\n", encoding="utf-8")


def no_val(root: Path) -> None:
    for path in root.glob("val*"):
        path.unlink()


def unknown_part(root: Path) -> None:
    (root / "train-0000.tar").rename(root / "shard-0000.tar")


def other_classes(root: Path) -> None:
    with zipfile.ZipFile(root / "digits-test.zip", "a") as archive:
        archive.writestr("two/000.png", b"")


def no_zip(root: Path) -> None:
    (root / "digits-train.zip").write_bytes(b"PK")


def flat_zip(root: Path) -> None:
    with zipfile.ZipFile(root / "digits-train.zip", "w") as archive:
        archive.writestr("000.png", b"")


def nested_zip(root: Path) -> None:
    with zipfile.ZipFile(root / "digits-train.zip", "w") as archive:
        for name in ("train/one/0.png", "train/zero/0.png", "val/one/1.png"):
            archive.writestr(name, b"")


def two_zips(root: Path) -> None:
    shutil.copy(root / "digits-train.zip", root / "more-train.zip")


def broken_image(root: Path) -> None:
    with zipfile.ZipFile(root / "digits-train.zip", "a") as archive:
        archive.writestr("one/broken.png", b"\x89PNG")


def other_columns(root: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    path = root / "data" / "train-00000-of-00002.parquet"
    pyarrow.parquet.write_table(pa.table({"text": ["a"]}), path)


def torn_parquet(root: Path) -> None:
    path = root / "data" / "train-00000-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("form", "spoil", "message"),
    [
        ("tars", cut_tar, r"train-0000\.tar: is cut off"),
        ("tars", compressed_tar, r"train-0000\.tar: not a plain tar file"),
        ("tars", classless_image, r"train-0000\.tar: train/lonely has no class"),
        ("tars", wordy_class, r"train-0000\.tar: .*a class is 'zero', expected its index"),
        ("tars", unnamed_class, "images of class 3, but only 2 classes have names"),
        ("tars", no_val, r"no shards named val, such as val-00000\.tar"),
        ("tars", unknown_part, r"shard-0000\.tar: neither it nor its folder is named"),
        ("zips", other_classes, "differ in their classes: two"),
        ("zips", no_zip, r"digits-train\.zip: File is not a zip file"),
        ("zips", flat_zip, "has no class folders"),
        ("zips", nested_zip, "has class folders in train and in val; make an archive of each"),
        ("zips", two_zips, "are both for 'train'"),
        ("zips", broken_image, r"digits-train\.zip:one/broken\.png: cannot be decoded"),
        ("parquet", other_columns, "has columns text, expected image and label"),
        ("parquet", torn_parquet, r"parquet: cannot be read"),
    ],
)
def test_what_is_wrong_is_said(
    form: str, spoil: Callable[[Path], None], message: str, tmp_path: Path, forms: dict[str, Path]
) -> None:
    root = tmp_path / "data"
    shutil.copytree(forms[form], root)
    spoil(root)
    with pytest.raises(ValueError, match=message):
        open_data(root, SMALL, 8)


def test_data_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        open_data(tmp_path / "nowhere", SMALL, 8)
    (tmp_path / "file.png").write_bytes(b"")
    with pytest.raises(ValueError, match="is a file, expected a folder"):
        open_data(tmp_path / "file.png", SMALL, 8)
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(ValueError, match="damaged or incomplete"):
        open_data(tmp_path, SMALL, 32)


def test_a_broken_image_is_named_when_it_is_met(tmp_path: Path) -> None:
    write_tars(tmp_path)
    with tarfile.open(tmp_path / "train-0001.tar", "a") as archive:
        add_member(archive, "train/bad.png", b"\x89PNG")
        add_member(archive, "train/bad.cls", b"1")
    data = open_data(tmp_path, SMALL, 8)
    for workers in (0, 2):
        with pytest.raises(ValueError, match=r"^\S*train-0001\.tar:train/bad: cannot be decoded"):
            list(data.train.validation_batches(Plan(0, 8, workers=workers), data.val_transform))


def test_a_test_part_is_left_alone_where_there_is_another(tmp_path: Path, forms: dict[str, Path]) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    root = tmp_path / "data"
    shutil.copytree(forms["parquet"], root)
    unlabelled = pa.table({"image": [{"bytes": b"", "path": ""}], "label": [-1]})
    pyarrow.parquet.write_table(unlabelled, root / "data" / "test-00000-of-00001.parquet")
    assert open_data(root, LARGE, 8).digest == open_data(forms["parquet"], LARGE, 8).digest


def test_more_lanes_than_shards_are_refused(forms: dict[str, Path]) -> None:
    data = open_data(forms["parquet"], SMALL, 8)
    with pytest.raises(ValueError, match="2 shards for 1 processes with 3 workers each"):
        data.train.training_batches(Plan(0, 8, workers=3), 0, 0, data.train_transform)


def test_cifar_images_come_out_of_their_zips(reference: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        with (
            zipfile.ZipFile(reference / "data" / f"cifar10-{part}.zip") as whole,
            zipfile.ZipFile(tmp_path / f"cifar10-{part}.zip", "w") as few,
        ):
            for name in whole.namelist():
                if name.endswith(("/0001.jpg", "/0002.jpg")):
                    few.writestr(name, whole.read(name))
    data: TrainingData = open_data(tmp_path, get_recipe("cifar", batch=8), 32)
    assert (len(data.train), len(data.val), data.num_classes) == (20, 20, 10)
    assert data.class_names[0] == "airplane"
    (images, _), *_ = data.train.training_batches(Plan(0, 8), 0, 0, data.train_transform)
    assert images.shape == (8, 3, 32, 32)
    assert images.float().std() > 20  # pictures, not one colour
    assert len({hashlib.sha256(image.numpy().tobytes()).digest() for image in images}) == 8
