"""Every file of the reference data is read by a test; which one is written down here and held to the sources."""

from __future__ import annotations

import hashlib
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

from dicenas.nets import build, dicenet_architecture
from dicenas.ops import ConvNormAct

TESTS = Path(__file__).resolve().parent

READ_BELOW = {"NOTES.md", "SHA256SUMS", "semantics.md"}
# Other files -> the module of tests that reads them, and the words in it that do.
READERS = {
    "bench_cpu.yaml": ("test_paper.py", '"bench_cpu.yaml"'),
    "paper_tables.yaml": ("test_paper.py", '"paper_tables.yaml"'),
    "photos.yaml": ("cli/test_segment.py", "reference/photos.yaml"),
    "upstream_models.yaml": ("nets/test_edgenets.py", "reference/upstream_models.yaml"),
    "models/index.yaml": ("nets/test_edgenets.py", "reference/models/index.yaml"),
    "models/logits.npz": ("nets/test_edgenets.py", "reference/models/logits.npz"),
    "models/state_s0.1_salt0_f64.npz": ("nets/test_edgenets.py", "reference/models/state_s0.1_salt0_f64.npz"),
    "models/train_steps.npz": ("nets/test_edgenets.py", "reference/models/train_steps.npz"),
    "models/train_steps.yaml": ("nets/test_edgenets.py", "reference/models/train_steps.yaml"),
    "models/upstream_keys.json": ("nets/test_edgenets.py", "reference/models/upstream_keys.json"),
    "trained/index.yaml": ("nets/test_segmentation.py", "reference/trained/index.yaml"),
    "trained/*.npz": ("nets/test_segmentation.py", 'reference / "reference" / case["file"]'),
    "units/index.yaml": ("nets/test_edgenets.py", "reference/units/index.yaml"),
    "units/*.npz": ("nets/test_edgenets.py", '"reference/units").glob("*.npz")'),
    "weights/*.pth": ("nets/test_segmentation.py", "reference/weights/{name}.pth"),
}


@pytest.fixture(scope="module")
def files(reference: Path) -> dict[str, Path]:
    """All files of the reference by their path within it."""
    folder = reference / "reference"
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def test_every_file_has_a_reader(files: dict[str, Path]) -> None:
    unread = {name for name in files if not any(fnmatch(name, pattern) for pattern in READERS)}
    assert unread == READ_BELOW, "write a test that reads what is new, and its name here"
    gone = [pattern for pattern in READERS if not any(fnmatch(name, pattern) for name in files)]
    assert gone == []


@pytest.mark.parametrize("pattern", READERS)
def test_the_reader_reads(pattern: str) -> None:
    module, words = READERS[pattern]
    assert words in (TESTS / module).read_text(encoding="utf-8")


def test_trained_outputs_and_weights_are_all_in_their_index(files: dict[str, Path]) -> None:
    """What the segmentation tests find through the index is what is there."""
    index = files["trained/index.yaml"].read_text(encoding="utf-8")
    for name in files:
        if fnmatch(name, "trained/*.npz"):
            assert Path(name).name in index, name
        elif fnmatch(name, "weights/*.pth"):
            assert Path(name).stem in index, name


def test_data_is_as_it_was_measured(files: dict[str, Path]) -> None:
    sums = dict(line.split()[::-1] for line in files["SHA256SUMS"].read_text(encoding="utf-8").splitlines())
    names = {name.removeprefix("*").removeprefix("./"): digest for name, digest in sums.items()}
    data = {name: digest for name, digest in names.items() if not name.endswith(".md")}  # prose may be reworded
    assert len(data) > 40
    assert {name: hashlib.sha256(files[name].read_bytes()).hexdigest() for name in data} == data


def test_notes_explain_every_folder_and_file(files: dict[str, Path]) -> None:
    notes = files["NOTES.md"].read_text(encoding="utf-8")
    for name in files:
        top = name.partition("/")[0]
        if top not in ("NOTES.md", "SHA256SUMS"):
            assert top in notes, name


def test_constants_of_the_semantics(files: dict[str, Path]) -> None:
    """Formulas are held to numbers by the units; these are the constants that the text states and no case shows."""
    text = files["semantics.md"].read_text(encoding="utf-8")

    def stated(pattern: str) -> list[str]:
        found = re.search(pattern, text)
        assert found is not None, pattern
        return list(found.groups())

    layer = ConvNormAct(4, 4, 3)
    eps, momentum = map(float, stated(r"eps ([\d.e-]+), momentum ([\d.]+)"))
    assert (layer.norm.eps, layer.norm.momentum) == (eps, momentum)
    assert (layer.act.weight == float(stated(r"one slope per channel \(initial ([\d.]+)\)")[0])).all()
    small, large = map(float, stated(r"dropout \(([\d.]+) for s<=1, ([\d.]+) above\)"))
    depths = tuple(map(int, stated(r"StridedDICE\(previous\) \+ (\d)/(\d)/(\d) blocks")))
    for scale, dropout in ((1.0, small), (1.25, large)):
        architecture = dicenet_architecture(scale, 10, 32)
        assert tuple(len(stage) - 1 for stage in architecture.stages) == depths
        with torch.device("meta"):
            assert build(architecture).head.dropout.p == dropout
