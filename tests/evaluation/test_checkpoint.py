from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from dicenas.evaluation.checkpoint import read_checkpoint, require_same, write_checkpoint

IDENTITY = {"architecture": {"width": 0.5}, "recipe": {"epochs": 3, "crop_scale": (0.1, 1.0)}, "teacher": None}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.pt"
    write_checkpoint(path, IDENTITY, {"weights": torch.arange(600.0), "epoch": 2, "history": [{"loss": 0.5}]})
    return path


def test_what_was_written_is_read(checkpoint: Path) -> None:
    identity, state = read_checkpoint(checkpoint)
    require_same(checkpoint, identity, IDENTITY)
    assert state["weights"].equal(torch.arange(600.0))
    assert (state["epoch"], state["history"]) == (2, [{"loss": 0.5}])


def test_no_torn_file_is_read(checkpoint: Path) -> None:
    whole = checkpoint.read_bytes()
    for length in {0, 1, 40, 92, 93, 94, *range(0, len(whole), 512), len(whole) - 1}:
        checkpoint.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"no checkpoint|torn or damaged"):
            read_checkpoint(checkpoint)


def test_no_damaged_file_is_read(checkpoint: Path) -> None:
    whole = checkpoint.read_bytes()
    for place in range(0, len(whole), 97):
        checkpoint.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"no checkpoint|torn or damaged"):
            read_checkpoint(checkpoint)


def test_foreign_files_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"net": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="no checkpoint of a training"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(print))
    with pytest.raises(ValueError, match="no checkpoint of a training"):
        read_checkpoint(path)


def test_a_failed_write_leaves_the_previous_checkpoint(checkpoint: Path) -> None:
    before = checkpoint.read_bytes()
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        write_checkpoint(checkpoint, IDENTITY, {"weights": lambda: None})
    assert checkpoint.read_bytes() == before
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint.pt"]


def test_every_difference_is_named(checkpoint: Path) -> None:
    identity, _ = read_checkpoint(checkpoint)
    wanted = {"architecture": {"width": 1.0}, "recipe": {**IDENTITY["recipe"], "epochs": 4}, "teacher": "timm:x"}  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="another training") as caught:
        require_same(checkpoint, identity, wanted)
    lines = str(caught.value).splitlines()[1:]
    assert lines == [
        "  architecture.width: 0.5 there, 1.0 asked for",
        "  recipe.epochs: 3 there, 4 asked for",
        "  teacher: None there, timm:x asked for",
    ]
