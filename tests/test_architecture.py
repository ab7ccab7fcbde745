"""Architectures as data: JSON, equality, hashes, refusals."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicenas.architecture import SCHEMA_VERSION, STEMS, Architecture

names = st.from_regex(r"[a-z][a-z_]{0,5}(_k[1-9])?", fullmatch=True)
sizes = st.integers(1, 512)
architectures = st.builds(
    Architecture,
    backbone=names,
    width=st.floats(0.05, 8),
    stages=st.lists(st.lists(names, max_size=3), max_size=3),
    stem=st.sampled_from(STEMS),
    image_size=sizes | st.tuples(sizes, sizes),
    num_classes=st.integers(1, 1000),
    in_channels=st.integers(1, 4),
)

EXAMPLE = Architecture(
    "shufflenetv2",
    1.0,
    (("dice_k3", "separable_k5"), ("skip",), ("separable_se_k3",)),
    stem="small",
    image_size=(32, 40),
    num_classes=10,
)


@given(architectures)
def test_json_round_trip(architecture: Architecture) -> None:
    again = Architecture.from_json(architecture.to_json())
    assert again == architecture
    assert again.hash == architecture.hash
    assert hash(again) == hash(architecture)
    assert Architecture.from_dict(architecture.to_dict()) == architecture
    assert pickle.loads(pickle.dumps(architecture)) == architecture  # noqa: S301  (of this process's own making)


@given(architectures, architectures)
def test_hashes_differ_where_architectures_do(one: Architecture, other: Architecture) -> None:
    assert (one.hash == other.hash) == (one == other)


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "mobilenetv2"},
        {"width": 0.75},
        {"stages": (("dice_k3",), ("separable_k5", "skip"), ("separable_se_k3",))},
        {"stem": "imagenet"},
        {"image_size": (40, 32)},
        {"num_classes": 11},
        {"in_channels": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_field_counts(changes: dict[str, Any]) -> None:
    changed = EXAMPLE.replace(**changes)
    assert changed != EXAMPLE
    assert changed.hash != EXAMPLE.hash


def test_hash_is_stable() -> None:
    # Studies, latency tables and run folders hold hashes: if this one changes, so must SCHEMA_VERSION.
    assert EXAMPLE.hash == "6476d44d73c8eda6"
    assert SCHEMA_VERSION == 1


def test_json_is_what_files_hold() -> None:
    assert json.loads(EXAMPLE.to_json()) == {
        "schema_version": 1,
        "backbone": "shufflenetv2",
        "width": 1.0,
        "stem": "small",
        "image_size": [32, 40],
        "num_classes": 10,
        "in_channels": 3,
        "stages": [["dice_k3", "separable_k5"], ["skip"], ["separable_se_k3"]],
        "hash": "6476d44d73c8eda6",
    }


def test_a_file_by_hand_needs_no_hash_but_must_have_the_right_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(EXAMPLE.to_dict()), encoding="utf-8")
    assert Architecture.load(path) == EXAMPLE
    path.write_text(EXAMPLE.to_json().replace("dice_k3", "dice_k5"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.json: .* damaged, it says hash '6476d44d73c8eda6'.*remove the hash"):
        Architecture.load(path)


def test_spellings_of_one_architecture_are_equal() -> None:
    lists: Any = [["dice_k3"], ["skip"]]
    one = Architecture("shufflenetv2", 1, lists, image_size=64)
    other = Architecture("shufflenetv2", 1.0, (("dice_k3",), ("skip",)), image_size=(64, 64))
    assert one == other
    assert one.hash == other.hash


@pytest.mark.parametrize(
    ("stem", "size", "expected"),
    [
        ("small", 32, ("small", (32, 32))),
        ("small", 63, ("small", (63, 63))),
        ("small", 64, ("imagenet", (64, 64))),
        ("small", (224, 48), ("small", (224, 48))),
        ("small", (224, 192), ("imagenet", (224, 192))),
        ("imagenet", 32, ("imagenet", (32, 32))),
    ],
)
def test_at_size(stem: str, size: int | tuple[int, int], expected: tuple[str, tuple[int, int]]) -> None:
    architecture = EXAMPLE.replace(stem=stem).at_size(size)
    assert (architecture.stem, architecture.image_size) == expected
    assert architecture.replace(stem="small", image_size=(32, 40)) == EXAMPLE


def test_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "architecture.json"
    EXAMPLE.save(path)
    assert Architecture.load(path) == EXAMPLE
    assert path.read_bytes().endswith(b"}\n")


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stem": "tiny"}, "unknown stem 'tiny'; expected one of imagenet, small"),
        ({"image_size": 0}, r"image_size .* should be \(H, W\)"),
        ({"image_size": (32, -1)}, "image_size"),
        ({"image_size": (32, 32, 3)}, "image_size"),
        ({"image_size": (32.0, 32.0)}, "image_size"),
        ({"image_size": "32"}, "image_size"),
        ({"num_classes": 0}, "num_classes 0 should be a whole number"),
        ({"num_classes": 10.0}, "num_classes 10.0 should be a whole number"),
        ({"num_classes": "10"}, "num_classes '10' should be a whole number"),
        ({"num_classes": True}, "num_classes True"),
        ({"in_channels": 0}, "in_channels 0"),
        ({"width": 0}, "width 0.0 should be a positive number"),
        ({"width": float("nan")}, "width nan"),
        ({"width": float("inf")}, "width inf"),
        ({"stages": ("dice_k3", "skip")}, "in a list for each stage"),
        ({"stages": (("dice_k3", 3),)}, "in a list for each stage"),
    ],
)
def test_values_that_no_network_has(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EXAMPLE.replace(**changes)
    with pytest.raises(ValueError, match=message):
        Architecture.from_dict(EXAMPLE.to_dict() | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema version 2, this dicenas reads 1"),
        ({"schema_version": None}, "schema version None"),
        ({"depth": 3}, r"unknown fields \['depth'\]"),
        ({"width": None}, "wrong kind of value"),
        ({"stages": 3}, "wrong kind of value"),
        ({"stages": [3]}, "wrong kind of value"),
        ({"image_size": None}, r"image_size .* should be \(H, W\)"),
        ({"image_size": 33.5}, r"image_size .* should be \(H, W\)"),
        ({"stages": None}, "wrong kind of value"),
    ],
)
def test_bad_fields(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Architecture.from_dict(EXAMPLE.to_dict() | changes)


def test_missing_field() -> None:
    data = EXAMPLE.to_dict()
    del data["stem"]
    with pytest.raises(ValueError, match=r"missing fields \['stem'\]"):
        Architecture.from_dict(data)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '"shufflenetv2"', "\ufeff{}"])
def test_bad_files_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"broken\.json: "):
        Architecture.load(path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"broken\.json: "):
        Architecture.load(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        Architecture.load(tmp_path / "none.json")
