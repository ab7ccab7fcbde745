"""The benchmark of loading counts what it should."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_digits

from dicenas.evaluation import datasets

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "loading.py"


@pytest.fixture
def two_classes(tmp_path: Path) -> Path:
    """Two digits as folders of twelve image files each."""
    digits = load_digits()
    for label in (3, 8):
        folder = tmp_path / "images" / str(label)
        folder.mkdir(parents=True)
        for number, pixels in enumerate(digits.images[digits.target == label][:12]):
            Image.fromarray((pixels * 15).astype("uint8")).save(folder / f"{number}.png")
    return tmp_path / "images"


@pytest.mark.parametrize("source", ["memory", "files"])
def test_it_says_where_an_epoch_goes(
    source: str,
    two_classes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "loading.json"
    arguments = ["--dataset", "imagefolder", "--root", str(two_classes), "--image-size", "16", "--batch", "4"]
    arguments += ["--epochs", "2", "--json", str(path), *(["--from-files"] if source == "files" else [])]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    monkeypatch.setattr(datasets, "_MEMORY_LIMIT", datasets._MEMORY_LIMIT)  # put back afterwards
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    runpy.run_path(str(SCRIPT), run_name="__main__")
    said = capsys.readouterr().out
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["machine"]["kind"] == {"memory": "MemoryImages", "files": "FileImages"}[source]
    assert [row["epoch"] for row in content["rows"]] == [1, 2]
    for row in content["rows"]:
        assert 0 < row["loading_seconds"] < row["seconds"]
        assert row["share"] == pytest.approx(row["loading_seconds"] / row["seconds"], abs=1e-3)
        assert f"{row['share']:.2%}" in said
