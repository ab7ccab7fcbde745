"""Every format of a network, loaded in one fresh process and compared with it."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dicenas.architecture import Architecture
from dicenas.export import DTYPES, FORMATS, TOLERANCES, ExportVerificationError, export_network, folder
from dicenas.nets import Network, get_backbone, list_backbones
from dicenas.space import SpaceSpec

Trained = Callable[[Architecture], Network]
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
NORMALIZATION = ((0.5, 0.4, 0.3), (0.25, 0.2, 0.1))
SOURCES = {"torch", "dicenas", "timm"}  # runtimes of formats that are source


def draw(backbone: str, seed: int, small: bool) -> Architecture:
    """A random architecture; a small one has few blocks, but a stage of two, and one DiCE unit."""
    family = get_backbone(backbone)
    depths = [*([[1]] * (family.num_stages - 1)), [2]] if small else family.depths
    spec = SpaceSpec(
        backbone,
        ("separable_k3", "separable_se_k3", *(() if small else ("skip", "dice_k3", "dice_k5"))),
        widths=[min(family.widths)] if small else family.widths,
        depths=depths,
        stems=("small",) if small else ("small", "imagenet"),
        resolutions=(32,) if small else (32, 45),
        num_classes=10,
    )
    architecture = spec.random(random.Random(seed))
    if not small:
        return architecture
    # Most of the time that it takes to write a program goes into these units.
    *others, last = architecture.stages
    return architecture.replace(stages=(*others, (re.sub("separable(_se)?_k3", "dice_k5", last[0]), *last[1:])))


@pytest.mark.parametrize(
    ("backbone", "seed"),
    [
        *((backbone, 0) for backbone in list_backbones()),
        *(pytest.param(name, seed, marks=pytest.mark.slow) for name in list_backbones() for seed in range(1, 11)),
    ],
)
def test_random_architectures_in_every_format(backbone: str, seed: int, trained: Trained, tmp_path: Path) -> None:
    architecture = draw(backbone, seed, small=seed == 0)
    network = trained(architecture)
    result = export_network(network, tmp_path / "net", tuple(FORMATS), normalization=NORMALIZATION)
    runtimes = {"torch", "torch.export", "torchscript", "onnxruntime", "timm"}
    has_dice = any("dice" in op for stage in architecture.stages for op in stage)
    assert set(result.verification.latency_ms) == runtimes | ({"dicenas"} if has_dice else set())
    height, width = architecture.image_size
    for runtime in result.verification.latency_ms:
        shapes = [check.input_shape for check in result.checks if check.runtime == runtime]
        expected = [(1, 3, height, width), (3, 3, height, width)]
        if runtime in SOURCES or not has_dice:
            expected.append((1, 3, height - height // 8, width - width // 8))
        assert shapes == expected
    assert all(check.passed for check in result.checks)
    # Four times what rounding does to a network of random weights, never the size of a fault.
    assert max(check.tolerance for check in result.checks) < 5e-4
    assert_standard_onnx(result.path / "model.onnx")


def assert_standard_onnx(path: Path) -> None:
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(each.domain, each.version >= 18) for each in model.opset_import] == [("", True)]
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert str(ROOT) not in str(model)
    assert "/tmp" not in str(model)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with both DiCE units in every format, deployed at a size that is not its native one."""
    from tests.export.conftest import make_trained

    stages = (("dice_k3", "dice_k3"), ("separable_k3", "skip"), ("separable_se_k3",))
    network = make_trained(Architecture("shufflenetv2", 0.1, stages, image_size=(40, 40), num_classes=10))
    out = tmp_path_factory.mktemp("exported") / "net"
    export_network(
        network,
        out,
        tuple(FORMATS),
        image_size=(56, 33),
        class_names=[f"kind {i}" for i in range(10)],
        normalization=NORMALIZATION,
        drawing="<svg/>",
    )
    return out


def test_programs_hold_the_resizing_of_other_sizes(exported: Path) -> None:
    model = onnx.load(exported / "model.onnx")
    shape = [dim.dim_value or dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["N", 3, 56, 33]
    assert "MatMul" in {node.op_type for node in model.graph.node}  # maps are resized to the native size and back
    program = torch.export.load(exported / "model.pt2")
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {target.partition(".")[0] for target in targets} == {"aten", "<built-in function getitem>"}


def test_card_says_how_each_format_is_loaded(exported: Path, tmp_path: Path) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert "![stem, stages and head](architecture.svg)" in card
    assert "mean (0.5, 0.4, 0.3), standard deviation (0.25, 0.2, 0.1)" in card
    assert "| 9 | kind 9 |" in card
    assert "deprecated" in card
    for runtime in ("torch", "dicenas", "torch.export", "torchscript", "onnxruntime", "timm"):
        assert f"| {runtime} | 3 x 3 x 56 x 33 |" in card
    # The blocks of code run as they stand, one after the other.
    blocks = [block.partition("```")[0] for block in card.split("```python\n")[1:]]
    assert len(blocks) == len(FORMATS)
    check = "\nassert model(torch.from_numpy(images)).shape == (1, 10)\n"
    program = "import numpy\nimages = numpy.zeros((1, 3, 56, 33), dtype=numpy.float32)\nimport torch\n"
    program += "".join(block + (check if "model =" in block else "") for block in blocks)
    program += "\nassert logits.shape == (1, 10)"
    done = subprocess.run([sys.executable, "-B", "-c", program], cwd=exported, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


TIMM_PROGRAM = """
import sys
sys.modules["dicenas"] = None
sys.path.insert(0, "timm")
import timm
import timm.optim
import timm_model
import torch

(name,) = timm.list_models("dicenas_*")
x = torch.randn(2, 3, 40, 40)
model = timm.create_model(name, pretrained=True).eval()
logits = model(x)
torch.testing.assert_close(model.forward_head(model.forward_features(x)), logits)
hidden = model.forward_head(model.forward_features(x), pre_logits=True)
assert hidden.shape == (2, model.head_hidden_size)
assert model.default_cfg["mean"] == (0.5, 0.4, 0.3), model.default_cfg
assert model.default_cfg["label_names"][3] == "kind 3"
data = timm.data.resolve_data_config(model=model)
assert data["input_size"] == (3, 40, 40), data

names = [key for key, _ in model.named_parameters()]
assert model.default_cfg["classifier"] + ".weight" in names
assert model.default_cfg["first_conv"] + ".weight" in names
for key, value in torch.jit.load("model.ts").state_dict().items():
    assert torch.equal(model.state_dict()[key], value), key

other = timm.create_model("local-dir:timm", pretrained=True, num_classes=3, in_chans=1, drop_rate=0.3).eval()
assert other(torch.randn(2, 1, 40, 40)).shape == (2, 3)
assert other.head.dropout.p == 0.3
assert torch.equal(other.head.expand.weight, model.head.expand.weight)

maps = timm.create_model(name, features_only=True, out_indices=(0, 2)).eval()
shapes = [tuple(feature.shape[1:]) for feature in maps(x)]
assert [shape[0] for shape in shapes] == maps.feature_info.channels(), shapes
assert [-(-40 // reduction) for reduction in maps.feature_info.reduction()] == [shape[1] for shape in shapes], shapes
last, found = model.forward_intermediates(x, indices=2)
torch.testing.assert_close(found[-1], last)
assert len(found) == 2

model.set_grad_checkpointing()
model.train()(x).sum().backward()
assert all(parameter.grad is not None for parameter in model.parameters())
model.reset_classifier(0)
assert model.eval()(x).shape == (2, model.head_hidden_size)
model.reset_classifier(0, "")
assert model(x).shape[1] == model.num_features and model(x).dim() == 4
groups = timm.optim.param_groups_layer_decay(model, layer_decay=0.5)
assert len(groups) > 3
try:
    model.reset_classifier(2, "max")
except ValueError as error:
    assert "'avg'" in str(error)
else:
    raise AssertionError("a pooling that the head does not have")
"""


def test_timm_folder_is_a_model_of_timm(exported: Path) -> None:
    done = subprocess.run([sys.executable, "-B", "-c", TIMM_PROGRAM], cwd=exported, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    config = json.loads((exported / "timm" / "config.json").read_text(encoding="utf-8"))
    assert config["num_classes"] == len(config["label_names"]) == 10
    source = exported / "timm" / "timm_model.py"
    checked = subprocess.run(
        [BIN / "ruff", "check", "--isolated", "--select", "E4,E7,E9,F,I,B,UP", source], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout


def test_openvino_imports_the_onnx_file(exported: Path, openvino: Any) -> None:
    # By itself it computes in bfloat16 on processors that have that.
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    network = openvino.Core().compile_model(str(exported / "model.onnx"), "CPU", settings)
    images = torch.randn(2, 3, 56, 33)
    with torch.no_grad():
        expected = torch.export.load(exported / "model.pt2").module()(images)
    (logits,) = network(images.numpy()).values()
    difference = (torch.from_numpy(logits) - expected).abs().max()
    assert difference <= 1e-4 * expected.abs().max()  # its own arithmetic


@pytest.mark.parametrize(
    ("fold_bn", "dtype", "formats"),
    [
        (True, "float32", tuple(FORMATS)),
        (False, "float16", tuple(FORMATS)),
        pytest.param(True, "float16", tuple(FORMATS), marks=pytest.mark.slow),
        (True, "bfloat16", ("py", "safetensors")),
        pytest.param(False, "bfloat16", tuple(set(FORMATS) - {"onnx"}), marks=pytest.mark.slow),
    ],
)
def test_folded_and_in_16_bits(
    fold_bn: bool, dtype: str, formats: tuple[str, ...], trained: Trained, tmp_path: Path
) -> None:
    stages = (("separable_k3", "skip"), ("separable_se_k3",), ("separable_k5", "dice_k3"))
    network = trained(Architecture("shufflenetv2", 0.1, stages, stem="small", image_size=(32, 32), num_classes=10))
    result = export_network(network, tmp_path / "net", formats, fold_bn=fold_bn, dtype=dtype)
    allowed = TOLERANCES["folded" if dtype == "float32" else dtype]
    assert min(check.tolerance for check in result.checks) == allowed
    assert all(check.passed for check in result.checks)
    weights = load_file(result.path / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {DTYPES[dtype]}
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    left = sum(name.endswith("running_mean") for name in weights)
    # Behind dimension-wise convolution, whose rows and columns no single filter scales, normalisations stay.
    dim_convs = sum(type(module).__name__ == "DimConv" for module in network.modules())
    assert left == (dim_convs if fold_bn else norms)
    assert (result.path / "model.py").read_text(encoding="utf-8").count(f".to(torch.{dtype})") == (dtype != "float32")


def test_program_that_differs_leaves_nothing(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = folder.write_pt2

    def write_other(program: torch.export.ExportedProgram, path: Path) -> None:
        program.state_dict["head.classifier.bias"] += 0.1
        write(program, path)

    monkeypatch.setattr(folder, "write_pt2", write_other)
    stages = (("separable_k3",),) * 3
    network = trained(Architecture("shufflenetv2", 0.1, stages, stem="small", image_size=(32, 32), num_classes=10))
    with pytest.raises(ExportVerificationError, match=r"ok   torch .*(.|\n)*FAIL torch.export +input 3 x 3 x 32 x 32"):
        export_network(network, tmp_path / "net", ("pt2",))
    assert list(tmp_path.iterdir()) == []
