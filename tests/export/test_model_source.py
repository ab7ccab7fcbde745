from __future__ import annotations

import ast
import importlib.util
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dicenas.architecture import Architecture
from dicenas.export import model_source
from dicenas.nets import (
    Network,
    build,
    dicenet,
    dicenet_architecture,
    list_backbones,
    mixnet_architecture,
    mobilenetv2_architecture,
    mobilenetv3_architecture,
    net_architecture,
    shufflenetv2_architecture,
)
from dicenas.nets.shufflenetv2 import CHANNELS
from dicenas.ops import ConvNormAct, make_activation, register_op
from tests.export.conftest import draw_architecture

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

Sampled = Callable[[str, int], Architecture]


def load(source: str, folder: Path) -> ModuleType:
    path = folder / "model.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("exported_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_same_network(network: Network, source: str, folder: Path) -> None:
    exported = load(source, folder).build()
    assert list(exported.state_dict()) == list(network.state_dict())
    exported.load_state_dict(network.state_dict())
    exported.eval()
    network.eval()
    a = network.architecture
    for size in (a.image_size, (a.image_size[0] + 5, a.image_size[1] + 9)):
        x = torch.randn(2, a.in_channels, *size)
        with torch.no_grad():
            torch.testing.assert_close(exported(x), network(x), rtol=0, atol=0)


def run(*command: str | Path, cwd: Path) -> None:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("scale", CHANNELS)
def test_every_dicenet(scale: float, trained: Any, tmp_path: Path) -> None:
    network = trained(dicenet_architecture(scale, num_classes=10, image_size=64))
    assert_same_network(network, model_source(network), tmp_path)


def test_mobilenetv2(trained: Any, tmp_path: Path) -> None:
    network = trained(mobilenetv2_architecture(0.5, num_classes=10, image_size=64))
    source = model_source(network)
    assert_same_network(network, source, tmp_path)
    assert "DiCE" not in source
    assert "dicenas.ops" not in source


@pytest.mark.parametrize("name", ["mobilenetv3_large", "mobilenetv3_small", "mnasnet_050"])
def test_networks_found_by_search(name: str, trained: Any, tmp_path: Path) -> None:
    network = trained(net_architecture(name, num_classes=10, image_size=64))
    source = model_source(network)
    assert_same_network(network, source, tmp_path)
    exported = load(source, tmp_path).build()
    settings = [
        [(module.eps, module.momentum) for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
        for net in (exported, build(network.architecture))
    ]
    assert settings[0] == settings[1]
    # Only the activations that it has, in defaults too.
    assert "silu" not in source
    assert "prelu" not in source


@pytest.mark.parametrize("backbone", list_backbones())
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))])
def test_random_architectures(backbone: str, seed: int, trained: Any, sampled: Sampled, tmp_path: Path) -> None:
    network = trained(sampled(backbone, seed))
    assert_same_network(network, model_source(network), tmp_path)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model.py of each kind, and of each backbone."""
    folder = tmp_path_factory.mktemp("sources")
    ops = ("dice_k5", "separable_se_k3", "skip", "separable_k7")
    networks = {
        "dicenet": dicenet_architecture(1.0),
        "mobilenet": mobilenetv2_architecture(),
        # Several activations, normalisations with settings of their own, mixed kernels.
        "mobilenetv3": mobilenetv3_architecture("small"),
        "mixnet": mixnet_architecture(),
        "shufflenetv2_torchvision": shufflenetv2_architecture(0.5, "torchvision"),
        "shufflenetv2_edgenets": shufflenetv2_architecture(0.5, "edgenets"),
        **{name: draw_architecture(name, 0) for name in ("mobilenetv1", "mobilenetv3_large", "mnasnet")},
        # Blocks whose op replaces the first layer too.
        "mixed_resnet": Architecture(
            "resnet",
            0.16,
            (
                ("dice_k3", "dimfuse_dw_dimfuse_k3"),
                ("dimfuse_dimconv_dimfuse_k3", "dw_pw_se_k3"),
                ("dimconv_pw_k3", "separable_k3"),
                ("dimfuse_dw_dimfuse_k3", "dice_k3"),
            ),
        ),
        "mixed_shufflenet": Architecture("shufflenetv2", 0.75, (ops, ops, ops[::-1][:1] + ops)),
        "mixed_mobilenet": Architecture(
            "mobilenetv2",
            1.4,
            [
                [op] if i in (0, 6) else [op, "dice_k3"]
                for i, op in enumerate(
                    ("dice_k3", "separable_k3", "separable_se_k5", "dice_k5", "separable_k5", "separable_k7", "dice_k3")
                )
            ],
        ),
    }
    assert {architecture.backbone for architecture in networks.values()} == set(list_backbones())
    for name, architecture in networks.items():
        options: dict[str, Any] = {"weights_name": "model.safetensors"} if name != "mobilenet" else {}
        if name == "mixed_shufflenet":
            options["class_names"] = [f"class {i}" for i in range(1000)]
            options["normalization"] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        with torch.device("meta"):  # no weights to draw
            network = build(architecture)
        (folder / f"{name}.py").write_text(model_source(network, **options), encoding="utf-8")
    return folder


def test_source_is_formatted(sources: Path) -> None:
    run(BIN / "ruff", "format", "--isolated", "--check", "--diff", ".", cwd=sources)


def test_source_passes_the_project_s_lint_rules(sources: Path) -> None:
    run(BIN / "ruff", "check", "--config", ROOT / "pyproject.toml", ".", cwd=sources)
    run(BIN / "ruff", "check", "--isolated", ".", cwd=sources)


def test_source_passes_mypy(sources: Path, tmp_path: Path) -> None:
    # The ops alone: the package's own __init__ would have mypy read the search libraries too.
    (tmp_path / "dicenas").mkdir()
    (tmp_path / "dicenas" / "__init__.py").touch()
    for part in ("ops", "spelling.py"):
        (tmp_path / "dicenas" / part).symlink_to(ROOT / "dicenas" / part)
    for path in sources.glob("*.py"):
        source = path.read_text(encoding="utf-8")
        (tmp_path / path.name).write_text(source, encoding="utf-8")
        # The same where dicenas is not installed.
        alone = source.replace("from dicenas.ops", "from not_installed.ops")
        (tmp_path / f"{path.stem}_alone.py").write_text(alone, encoding="utf-8")
    # Silent on what is imported: the package's own types are the linter's business.
    options = ("--config-file", ROOT / "pyproject.toml", "--cache-dir", tmp_path / "cache", "--follow-imports=silent")
    run(BIN / "mypy", *options, *(path.name for path in tmp_path.glob("*.py")), cwd=tmp_path)


def test_source_imports_torch_alone(sources: Path) -> None:
    for path in sources.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        named = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
        tops = {name.partition(".")[0] for name in (*plain, *named) if name}
        assert tops - sys.stdlib_module_names == {"torch"}


def test_source_has_only_what_the_network_needs() -> None:
    source = model_source(dicenet(1.0))
    for absent in (
        "SeparableConv",
        "SqueezeExcitation",
        "InvertedResidual",
        "final_activation",
        "Identity",
        "make_activation",
    ):
        assert absent not in source
    assert "self.act = nn.PReLU(out_channels)" in source
    assert "StridedDiCE(24, size=(28, 28))," in source
    assert "if in_channels < 4" not in source


def test_dropout_changed_after_building() -> None:
    assert "GroupedClassifier(64, 512, 10, dropout=0.35)" in model_source(dicenet(0.1, 10, 64, dropout=0.35))


def test_network_keeps_its_weights_and_generator() -> None:
    network = dicenet(0.1, 10, 64)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    constructors = {type(module): vars(type(module)).get("__init__") for module in network.modules()}
    assert constructors[nn.MaxPool2d] is None  # inherited
    model_source(network)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(vars(cls).get("__init__") is constructor for cls, constructor in constructors.items())


def test_network_changed_after_building() -> None:
    network = dicenet(0.1, 10, 64)
    network.head.classifier = nn.Conv2d(512, 7, 1)
    with pytest.raises(ValueError, match=r"changed after it was built.*head.classifier.bias"):
        model_source(network)


def test_demonstration_runs(trained: Any, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(model_source(trained(dicenet_architecture(0.1, 7, (40, 33)))))
    done = subprocess.run([sys.executable, "model.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "(1, 7)\n"


# Ops that others register.

GAIN = 0.5


def smooth(x: Tensor, kernel_size: int) -> Tensor:
    """Mean over a neighbourhood."""
    return F.avg_pool2d(x, kernel_size, stride=1, padding=kernel_size // 2)


class Sharpen(nn.Module):
    """Adds what smoothing takes away."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, activation: str, final: bool = True) -> None:
        super().__init__()
        activation = activation if final else "relu"
        self.conv = ConvNormAct(in_channels, out_channels, 1, stride, activation=None)
        self.act = make_activation(activation, out_channels)
        self.bias = nn.Parameter(torch.zeros(math.gcd(1, out_channels)))

    def forward(self, x: Tensor) -> Tensor:
        x = x + GAIN * (x - smooth(x, 3))
        return self.act(self.conv(x) + self.bias)


class Pair(nn.Module):
    """Two convolutions, the second one linear or not."""

    def __init__(self, channels: int, activation: str | None, stride: int = 1) -> None:
        super().__init__()
        self.linear = activation is None
        self.first = ConvNormAct(channels, channels, 3, stride=stride, groups=channels)
        self.second = ConvNormAct(channels, channels, 1, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x))
        return -x if self.linear else x


class Measured(nn.Module):
    """Needs more than torch."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == pytest.approx(float(x.shape[1]))
        return x


def mixed(op: str) -> Architecture:
    stages = (("dice_k3", op), ("separable_k3", "dice_k3"), ("separable_k3", op))
    return Architecture("shufflenetv2", 0.1, stages, image_size=(64, 64), num_classes=10)


@pytest.mark.usefixtures("own_registry")
def test_third_party_op_with_a_class_of_its_own(trained: Any, tmp_path: Path) -> None:
    @register_op("sharpen")
    def sharpen(in_channels, out_channels, *, stride, size, kernel_size, activation, final_activation):  # type: ignore[no-untyped-def]
        return Sharpen(in_channels, out_channels, stride, activation)

    network = trained(mixed("sharpen_k3"))
    source = model_source(network)
    assert_same_network(network, source, tmp_path)
    assert "GAIN = 0.5" in source
    assert "def smooth(" in source


@pytest.mark.usefixtures("own_registry")
def test_third_party_op_that_hands_its_activation_on(trained: Any, tmp_path: Path) -> None:
    @register_op("pair", kernel_sizes=(3, 5))
    def pair(in_channels, out_channels, *, stride, size, kernel_size, activation, final_activation):  # type: ignore[no-untyped-def]
        return Pair(in_channels, activation if kernel_size == 3 else None, stride)

    stages = (("dice_k3", "pair_k3"), ("pair_k5", "dice_k3"), ("dice_k3", "pair_k5"))
    network = trained(Architecture("shufflenetv2", 0.1, stages, image_size=(64, 64), num_classes=10))
    source = model_source(network)
    assert_same_network(network, source, tmp_path)
    assert "activation=activation is not None" in source


@pytest.mark.usefixtures("own_registry")
def test_third_party_op_of_torch_modules(trained: Any, tmp_path: Path) -> None:
    @register_op("own_conv", kernel_sizes=(3, 5))
    def own_conv(in_channels, out_channels, *, stride, size, kernel_size, activation, final_activation):  # type: ignore[no-untyped-def]
        layers = [nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)]
        layers += [nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers)

    network = trained(mixed("own_conv_k5"))
    source = model_source(network)
    assert_same_network(network, source, tmp_path)
    assert "nn.Conv2d(8, 8, 5, padding=2, bias=False)," in source
    assert "nn.ReLU(inplace=True)," in source


@pytest.mark.usefixtures("own_registry")
def test_third_party_op_that_needs_another_library() -> None:
    @register_op("measured")
    def measured(in_channels, out_channels, *, stride, size, kernel_size, activation, final_activation):  # type: ignore[no-untyped-def]
        return Measured()

    with pytest.raises(ValueError, match=r"op 'measured_k3' cannot be exported.*pytest"):
        model_source(build(mixed("measured_k3")))


@pytest.mark.usefixtures("own_registry")
def test_third_party_op_without_source() -> None:
    class Local(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    @register_op("local")
    def local(in_channels, out_channels, *, stride, size, kernel_size, activation, final_activation):  # type: ignore[no-untyped-def]
        return Local()

    with pytest.raises(ValueError, match=r"op 'local_k3' cannot be exported.*not defined at the top level"):
        model_source(build(mixed("local_k3")))
