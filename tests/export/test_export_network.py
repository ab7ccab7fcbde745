from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dicenas.architecture import Architecture
from dicenas.export import (
    TOLERANCE,
    Check,
    ExportVerificationError,
    Verification,
    check_process,
    export_network,
    folder,
    read_exported,
    verify,
)
from dicenas.export.model_source import NetworkSource, network_source
from dicenas.nets import Network, dicenet_architecture, mobilenetv2_architecture


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def network(trained: Any) -> Network:
    return trained(dicenet_architecture(0.1, num_classes=10, image_size=48))


@pytest.fixture
def unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of the folder alone: starting a process takes seconds."""
    monkeypatch.setattr(folder, "verify", lambda *args, **kwargs: Verification())


@pytest.mark.usefixtures("fresh_process")
def test_export(network: Network, tmp_path: Path) -> None:
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    out = tmp_path / "runs" / "export"
    result = export_network(
        network,
        out,
        metrics={"accuracy": 0.75, "macs": 60e6},
        class_names=list("0123456789"),
        normalization=((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    )
    assert result.path == out
    assert names(out.parent) == ["export"]
    expected = ["README.md", "SHA256SUMS", "architecture.json", "metrics.json", "model.py", "model.safetensors"]
    assert [path.name for path in result.files] == names(out) == expected
    # One with torch alone, one with the kernels; two batch sizes and another image size each.
    assert [(check.runtime, check.input_shape) for check in result.checks] == [
        (runtime, shape)
        for runtime in ("torch", "dicenas")
        for shape in ((1, 3, 48, 48), (3, 3, 48, 48), (1, 3, 42, 42))
    ]
    for check in result.checks:
        assert check.largest_logit > 0.1
        assert check.difference <= TOLERANCE * check.largest_logit
    assert Architecture.load(out / "architecture.json") == network.architecture
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["accuracy"] == 0.75
    assert metrics["macs"] == 60e6  # at the size that the search took it
    assert metrics["params"] == sum(p.numel() for p in network.parameters())
    weights = load_file(out / "model.safetensors")
    assert set(weights) == set(before)
    assert all(torch.equal(weights[name], tensor) for name, tensor in before.items())
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    card = (out / "README.md").read_text()
    assert "mean (0.5, 0.5, 0.5)" in card
    assert "| accuracy | 0.75 |" in card
    assert "| 3 | 3 |" in card  # its classes
    assert "| dicenas | 3 x 3 x 48 x 48 |" in card
    assert set(result.verification.latency_ms) == {"torch", "dicenas"}

    # Taken away: the card's lines, without safetensors.
    program = (
        "import sys; sys.path.insert(0, '.'); sys.modules['safetensors'] = None\n"
        "import torch; from model import WEIGHTS, build\n"
        "torch.save(build(WEIGHTS).state_dict(), sys.argv[1])"
    )
    command = [sys.executable, "-I", "-B", "-c", program, str(tmp_path / "read.pt")]
    subprocess.run(command, cwd=out, check=True)
    read = torch.load(tmp_path / "read.pt", weights_only=True)
    assert list(read) == list(network.state_dict())
    assert all(torch.equal(read[name], tensor) for name, tensor in network.state_dict().items())


def test_network_without_dice_is_checked_with_torch_alone(trained: Any, tmp_path: Path) -> None:
    network = trained(mobilenetv2_architecture(0.5, num_classes=3, image_size=33))
    result = export_network(network, tmp_path / "net", ("py",))
    assert {check.runtime for check in result.checks} == {"torch"}
    assert not (tmp_path / "net" / "model.safetensors").exists()
    assert "WEIGHTS" not in (tmp_path / "net" / "model.py").read_text()


@pytest.mark.usefixtures("fresh_process")
def test_fresh_process_has_neither_dicenas_nor_search_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "_TIMED_ROUNDS", 9)
    assert {"dicenas", "nni", "optuna"} <= check_process.BLOCKED
    (tmp_path / "model.py").write_text(
        "import importlib, importlib.util, sys\n"
        "from torch import nn\n"
        "def build(weights):\n"
        "    for name in ('dicenas', 'dicenas.ops', 'nni', 'optuna', 'onnxruntime', 'safetensors', 'timm'):\n"
        "        try:\n            importlib.import_module(name)\n"
        "        except ModuleNotFoundError:\n            continue\n"
        "        raise AssertionError(f'{name} can be imported')\n"
        "    assert importlib.util.find_spec('nni') is None\n"
        "    assert not any(name.partition('.')[0] == 'dicenas' for name in sys.modules)\n"
        "    assert all('tests' not in path for path in sys.path)\n"
        "    return nn.Flatten()\n"
    )
    found = verify._run(tmp_path, ["py"], {"torch": [torch.ones(1, 2, 1, 1)]}, None)
    assert found["logits"]["torch"][0].tolist() == [[1.0, 1.0]]
    assert found["state_dict"] == {}
    assert len(found["times_ms"]["torch"]) == 9
    assert min(found["times_ms"]["torch"]) > 0


def test_tampered_weights_leave_nothing(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = folder._write_weights

    def write_tampered(weights: dict[str, Tensor], architecture_hash: str, trained: bool, path: Path) -> None:
        write(weights, architecture_hash, trained, path)
        tampered = load_file(path)
        tampered["head.classifier.weight"] *= 1.001
        save_file(tampered, path)

    monkeypatch.setattr(folder, "_write_weights", write_tampered)
    with pytest.raises(ExportVerificationError, match=r"weights differ.*\['head.classifier.weight'\]"):
        export_network(network, tmp_path / "made" / "for" / "net")
    assert names(tmp_path) == []


def test_tampered_source_leaves_nothing(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tampered(*args: Any, **kwargs: Any) -> NetworkSource:
        source = network_source(*args, **kwargs)
        return dataclasses.replace(
            source, text=source.text.replace("return x.flatten(1)", "return 1.0001 * x.flatten(1)")
        )

    monkeypatch.setattr(folder, "network_source", tampered)
    with pytest.raises(ExportVerificationError, match=r"FAIL torch +input 3 x 3 x 48 x 48: difference"):
        export_network(network, tmp_path / "net")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("largest_logit", "difference", "passed"),
    [(2.0, 1.9e-5, True), (2.0, 2.1e-5, False), (0.0, 0.0, True), (float("nan"),) * 2 + (False,)],
)
def test_tolerance(largest_logit: float, difference: float, passed: bool) -> None:
    assert Check("torch", (1, 3, 8, 8), largest_logit, difference).passed is passed


def test_weights_that_do_not_load_leave_nothing(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "_write_weights", lambda *args: save_file({"x": torch.ones(1)}, args[-1]))
    with pytest.raises(ExportVerificationError, match=r"does not run(.|\n)*Missing key"):
        export_network(network, tmp_path / "net")
    assert names(tmp_path) == []


@pytest.mark.usefixtures("unverified")
def test_failed_verification_keeps_the_folder_that_it_would_have_replaced(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise ExportVerificationError("they differ")

    export_network(network, tmp_path / "net", metrics={"accuracy": 0.1})
    monkeypatch.setattr(folder, "verify", fail)
    with pytest.raises(ExportVerificationError):
        export_network(network, tmp_path / "net", metrics={"accuracy": 0.2}, force=True)
    assert names(tmp_path) == ["net"]
    assert json.loads((tmp_path / "net" / "metrics.json").read_text())["accuracy"] == 0.1


@pytest.mark.usefixtures("unverified")
def test_existing_folder(network: Network, tmp_path: Path) -> None:
    out = tmp_path / "net"
    export_network(network, out, metrics={"accuracy": 0.1})
    (out / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists"):
        export_network(network, out)
    assert (out / "note.txt").is_file()
    export_network(network, out, ("safetensors",), metrics={"accuracy": 0.2}, force=True)
    assert names(tmp_path) == ["net"]
    assert names(out) == ["README.md", "SHA256SUMS", "architecture.json", "metrics.json", "model.safetensors"]
    assert json.loads((out / "metrics.json").read_text())["accuracy"] == 0.2


@pytest.mark.usefixtures("unverified")
@pytest.mark.parametrize("as_trained", [True, False])
def test_fresh_weights_are_said_to_be_fresh(as_trained: bool, network: Network, tmp_path: Path) -> None:
    result = export_network(network, tmp_path / "net", trained=as_trained)
    card = (result.path / "README.md").read_text(encoding="utf-8")
    assert ("weights are fresh" in card) is not as_trained
    assert read_exported(result.path).trained is as_trained


@pytest.mark.usefixtures("unverified")
def test_link_to_a_folder_stays_a_link(network: Network, tmp_path: Path) -> None:
    export_network(network, tmp_path / "nets" / "first", metrics={"accuracy": 0.1})
    (tmp_path / "latest").symlink_to(tmp_path / "nets" / "first")
    export_network(network, tmp_path / "latest", metrics={"accuracy": 0.2}, force=True)
    assert (tmp_path / "latest").is_symlink()
    assert names(tmp_path / "nets") == ["first"]
    assert json.loads((tmp_path / "nets" / "first" / "metrics.json").read_text())["accuracy"] == 0.2


def test_folder_that_appears_meanwhile_is_kept(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify_slowly(*args: object, **kwargs: object) -> Verification:
        (tmp_path / "net").mkdir()
        return Verification()

    monkeypatch.setattr(folder, "verify", verify_slowly)
    with pytest.raises(FileExistsError, match="exists"):
        export_network(network, tmp_path / "net")
    assert names(tmp_path / "net") == []


@pytest.mark.usefixtures("unverified")
def test_folder_of_a_trial_is_not_replaced(network: Network, tmp_path: Path) -> None:
    for name in ("architecture.json", "metrics.json", "weights.safetensors"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(FileExistsError, match=r"no exported network \(no README.md in it\)"):
        export_network(network, tmp_path, force=True)


@pytest.mark.usefixtures("unverified")
def test_force_replaces_nothing_but_exports(network: Network, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="no exported network"):
        export_network(network, tmp_path / "thesis", force=True)
    assert names(tmp_path / "thesis") == ["chapter.tex"]


@pytest.mark.usefixtures("unverified")
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_failure_half_way_leaves_nothing(
    error: BaseException, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> str:
        raise error

    monkeypatch.setattr(folder, "model_card", fail)
    with pytest.raises(type(error)):
        export_network(network, tmp_path / "net")
    assert names(tmp_path) == []


@pytest.mark.usefixtures("unverified")
@pytest.mark.parametrize("error", [PermissionError("not now"), KeyboardInterrupt()])
def test_folder_that_cannot_take_its_place_leaves_the_old_one(
    error: BaseException, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "net"
    export_network(network, out, metrics={"accuracy": 0.1})
    rename = Path.rename

    def failing_rename(self: Path, target: Path) -> Path:
        if Path(target) == out and not self.name.endswith(".replaced"):
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing_rename)
    with pytest.raises(type(error)):
        export_network(network, out, metrics={"accuracy": 0.2}, force=True)
    assert names(tmp_path) == ["net"]
    assert json.loads((out / "metrics.json").read_text())["accuracy"] == 0.1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"formats": ("py", "safetensor")}, "unknown format 'safetensor'.*safetensors"),
        ({"formats": ()}, "no format"),
        ({"dtype": "float64"}, "unknown dtype 'float64'.*float32"),
        ({"formats": ("onnx",), "dtype": "bfloat16"}, "no bfloat16 convolutions"),
        ({"image_size": 0}, "image_size"),
        ({"class_names": ["a", "b"]}, "2 class names for a network of 10 classes"),
        ({"normalization": ((0.5,), (0.5,))}, "3 channels"),
        ({"metrics": {"accuracy": float("nan")}}, "nan"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], complaint: str, network: Network, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=complaint):
        export_network(network, tmp_path / "net", **arguments)
    assert names(tmp_path) == []


@pytest.mark.parametrize(("name", "package"), [("onnx", "onnxscript"), ("timm", "timm")])
def test_missing_package_names_the_extra(
    name: str, package: str, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(ValueError, match=rf"{name}.*needs {package}.*'dicenas\[export\]'"):
        export_network(network, tmp_path / "net", ("py", name))
    assert names(tmp_path) == []


def test_torch_without_torchscript_is_said_so(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.jit, "trace")
    with pytest.raises(ValueError, match="has no TorchScript any more; 'pt2'"):
        export_network(network, tmp_path / "net", ("torchscript",))
    assert names(tmp_path) == []


def test_half_precision_is_refused(network: Network, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"float16.*\.float\(\)"):
        export_network(network.half(), tmp_path / "net")


def test_other_modules_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Linear"):
        export_network(torch.nn.Linear(1, 1), tmp_path / "net")  # type: ignore[arg-type]
