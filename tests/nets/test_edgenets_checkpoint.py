"""Checkpoint files of EdgeNets' networks: as its training writes them, and as they must not be."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from dicenas.nets import Network, build, dicenet, dicenet_segmentation, edgenets, mobilenetv2_architecture
from dicenas.ops import DiCE

State = dict[str, Tensor]


def upstream_state(module: nn.Module) -> State:
    """The module's weights by EdgeNets' names."""
    own = module.state_dict()
    return OrderedDict((key, own[name].clone()) for name, key in edgenets.upstream_keys(module).items())


@pytest.fixture(scope="module")
def classifier() -> Network:
    return dicenet(0.1, num_classes=7, image_size=(64, 96))


@pytest.fixture
def state(classifier: Network) -> State:
    return upstream_state(classifier)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dicenet.pth"


def same(actual: nn.Module, expected: nn.Module) -> bool:
    a, b = actual.state_dict(), expected.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# What is read


def write_plain(state: State, path: Path) -> None:
    torch.save(state, path)


def write_legacy(state: State, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def write_training_state(state: State, path: Path) -> None:
    """As EdgeNets' training does: DataParallel's names, the optimizer, the best score as a number of numpy's."""
    momentum = {number: {"momentum_buffer": torch.zeros_like(value)} for number, value in enumerate(state.values())}
    groups = [{"lr": 0.1, "momentum": 0.9, "params": list(momentum)}]
    content = {
        "epoch": 3,
        "arch": "dicenet",
        "state_dict": OrderedDict((f"module.{key}", value) for key, value in state.items()),
        "best_miou": np.float64(61.5),
        "optimizer": {"state": momentum, "param_groups": groups},
    }
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_with_old_numpy(state: State, path: Path) -> None:
    """The module of numpy's numbers had another name when EdgeNets was trained."""
    write_training_state(state, path)
    content = path.read_bytes()
    assert b"numpy._core.multiarray" in content
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))


WRITERS = [write_plain, write_legacy, write_training_state, write_with_old_numpy]


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@pytest.mark.parametrize("write", WRITERS)
def test_checkpoint_decides_the_network(
    write: Callable[[State, Path], None],
    device: str,
    classifier: Network,
    state: State,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The tag says where a tensor was; nothing else of the file depends on it.
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: device)
    write(state, path)
    assert device.encode() in path.read_bytes()
    read = edgenets.read_classification(path)
    assert read.architecture == classifier.architecture
    assert same(read, classifier)
    assert all(value.device.type == "cpu" for value in read.state_dict().values())


def test_safetensors(classifier: Network, state: State, tmp_path: Path) -> None:
    path = tmp_path / "dicenet.safetensors"
    save_file(state, path)
    assert same(edgenets.read_classification(path), classifier)


@pytest.mark.parametrize("write", [write_plain, write_training_state])
def test_segmentation_checkpoint(write: Callable[[State, Path], None], path: Path) -> None:
    network = dicenet_segmentation(0.2, 6, image_size=(64, 96))
    write(upstream_state(network), path)
    read = edgenets.read_segmentation(path)
    assert (read.scale, read.num_classes, read.image_size) == (0.2, 6, (64, 96))
    assert same(read, network)


def test_checkpoint_fills_a_module(path: Path) -> None:
    unit, other = DiCE(8, 8, (7, 7)), DiCE(8, 8, (7, 7))
    torch.save(upstream_state(unit), path)
    edgenets.load_checkpoint(other, path)
    assert same(other, unit)


def test_half_precision_is_widened(classifier: Network, state: State, path: Path) -> None:
    torch.save({key: value.half() if value.is_floating_point() else value for key, value in state.items()}, path)
    read = edgenets.read_classification(path)
    assert read.head.classifier.weight.dtype == torch.float32
    torch.testing.assert_close(read.state_dict(), classifier.state_dict(), rtol=1e-3, atol=1e-6)


# What is refused


def refused(path: Path, kind: type[Exception] = ValueError, reading: Callable[..., Any] | None = None) -> str:
    """The message with which a file is refused: one line that names the file. A filled module stays as it was."""
    with pytest.raises(kind) as caught:
        (reading or edgenets.read_classification)(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    unit = DiCE(8, 8, (7, 7))
    before = {name: value.clone() for name, value in unit.state_dict().items()}
    with pytest.raises(kind):
        edgenets.load_checkpoint(unit, path)
    assert all(torch.equal(value, before[name]) for name, value in unit.state_dict().items())
    return message


def test_missing_file(path: Path) -> None:
    assert "there is no checkpoint file" in refused(path, FileNotFoundError)


def test_folder(tmp_path: Path) -> None:
    assert "is a folder" in refused(tmp_path, IsADirectoryError)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"hello\n", "# Weights\n\nhere: ü\n".encode(), b"\x80\x02", b"PK\x03\x04", b"{}"]
)
def test_other_files(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    assert "is no checkpoint, or a damaged one" in refused(path)


@pytest.mark.parametrize("write", [write_plain, write_legacy, write_training_state, save_file])
@pytest.mark.parametrize("kept", [0.001, 0.1, 0.5, 0.999])
def test_truncated(write: Callable[[State, Path], None], kept: float, state: State, tmp_path: Path) -> None:
    path = tmp_path / ("cut.safetensors" if write is save_file else "cut.pth")
    write(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    message = refused(path)
    # Where the name of a type is cut, it is the name of something else.
    assert "is no checkpoint, or a damaged one" in message or "names code (torch.Fl)" in message


@given(st.binary(max_size=64), st.integers(0, 10**6), st.booleans())
def test_damaged_bytes_have_one_error(
    tmp_path_factory: pytest.TempPathFactory, damage: bytes, place: int, legacy: bool
) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(6.0)}, buffer, _use_new_zipfile_serialization=not legacy)
    content = bytearray(buffer.getvalue())
    place %= len(content)
    content[place : place + len(damage)] = damage
    path = tmp_path_factory.mktemp("damaged") / "damaged.pth"
    path.write_bytes(content)
    try:
        edgenets.read_state_dict(path)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017 -- damage may also fall where nothing depends on it


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("protocol", [2, 4, "zip", "legacy"])
def test_code_is_not_run(protocol: int | str, state: State, path: Path) -> None:
    folder = path.parent / "made"
    content = {"state_dict": state, "arch": Code(str(folder))}
    if isinstance(protocol, int):
        path.write_bytes(pickle.dumps(content["arch"], protocol))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=protocol == "zip")
    message = refused(path)
    assert "names code" in message or protocol == 4
    assert "weights_only" not in message  # torch's own message tells how to run the code
    assert not folder.exists()


def test_whole_network_is_refused(classifier: Network, path: Path) -> None:
    torch.save(classifier, path)
    message = refused(path)
    assert "names code (dicenas.nets.backbone.Network)" in message
    assert "save the network's state_dict() instead" in message


def test_script_is_refused(path: Path) -> None:
    path_of_script = path.with_suffix(".pt")
    with zipfile.ZipFile(path_of_script, "w") as archive:
        archive.writestr("script/constants.pkl", b"\x80\x02).")
        archive.writestr("script/data.pkl", b"\x80\x02}.")
        archive.writestr("script/version", b"3\n")
    assert "is no checkpoint" in refused(path_of_script)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds an object of type list"),
        (torch.zeros(1), "holds an object of type Tensor"),
        ({}, "holds an empty dictionary"),
        ({"state_dict": {}}, "holds an empty dictionary"),
        ({"epoch": 3, "weights": {"a": torch.zeros(1)}}, "epoch, weights are not names of dense tensors"),
        ({"a": torch.zeros(1), 5: torch.zeros(1)}, "5 are not names of dense tensors"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "a are not names of dense tensors"),
    ],
)
def test_other_contents(content: object, message: str, path: Path) -> None:
    torch.save(content, path)
    assert message in refused(path)


def test_other_architecture(path: Path) -> None:
    torch.save(build(mobilenetv2_architecture(0.5, image_size=32)).state_dict(), path)
    message = refused(path)
    assert "this is no classification network of DiCENet: missing key level4.0.left_layer.0.cbr.0.weight" in message
    assert "its keys are stem.conv.weight, stem.norm.weight" in message
    assert "missing key base_net.level4.0" in refused(path, reading=edgenets.read_segmentation)


def test_the_other_kind_of_network(state: State, path: Path) -> None:
    torch.save(state, path)
    assert "it holds a classification network" in refused(path, reading=edgenets.read_segmentation)
    torch.save(upstream_state(dicenet_segmentation(0.1, 6, image_size=64)), path)
    assert "it holds a segmentation network" in refused(path)


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("level3.1.layer_right.1.conv_width.weight", (9, 1, 3, 3), "has shape (9, 1, 3, 3), expected (12, 1, 3, 3)"),
        ("classifier.2.bias", (8,), "classifier.2.bias has shape (8,), expected (7,)"),
        # The tensors that decide which network is built:
        ("classifier.2.weight", (7, 512), "classifier.2.weight has shape (7, 512), expected four dimensions"),
        ("classifier.2.weight", (8, 512, 1, 1), "classifier.2.bias has shape (7,), expected (8,)"),
        ("level4.0.left_layer.0.cbr.0.weight", (9, 1, 3, 3), "has 9 channels, and the published networks have one of"),
        ("level4.0.left_layer.0.cbr.0.weight", (32, 1, 3, 3), "level1.cbr.0.weight has shape (8, 3, 3, 3), expected"),
        ("level3.0.right_layer.1.conv_height.weight", (0, 1, 3, 3), "image_size"),
    ],
)
def test_one_wrong_shape(key: str, shape: tuple[int, ...], message: str, state: State, path: Path) -> None:
    state[key] = torch.zeros(shape)
    torch.save(state, path)
    assert message in refused(path)


def test_one_missing_key(state: State, path: Path) -> None:
    del state["level5.2.layer_right.0.cbr.1.bias"]
    torch.save(state, path)
    assert "missing key level5.2.layer_right.0.cbr.1.bias" in refused(path)


def test_segmentation_of_one_class(path: Path) -> None:
    state = upstream_state(dicenet_segmentation(0.1, 2, image_size=64))
    state["eff_pool_128x128.merge_layer.3.weight"] = torch.zeros(1, 1, 1, 1)
    torch.save(state, path)
    assert "num_classes 1 is below 2" in refused(path, reading=edgenets.read_segmentation)
