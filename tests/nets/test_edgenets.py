"""Reading EdgeNets' weights, and with them the ops and networks held to EdgeNets' numbers."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from dicenas.nets import (
    Network,
    ShuffleUnit,
    StridedShuffleUnit,
    architecture_cost,
    build,
    dicenet,
    dicenet_architecture,
    edgenets,
    mobilenetv2_architecture,
    shufflenetv2,
    shufflenetv2_architecture,
)
from dicenas.nets.segmentation import EfficientPyramidPool
from dicenas.nets.shufflenetv2 import CHANNELS
from dicenas.nets.shufflenetv2_layouts import EDGENETS_CHANNELS
from dicenas.ops import DiCE, EfficientPWConv, StridedDiCE, build_op

UNITS = Path(__file__).resolve().parent.parent / "data" / "units"
CASES = yaml.safe_load((UNITS / "index.yaml").read_text(encoding="utf-8"))["cases"]

# Parameters and buffers of the two sides differ in name alone; 1e-10 leaves room for the order of summation.
TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def counterpart(kind: str, config: dict[str, Any]) -> nn.Module:
    """Our module for a unit case of EdgeNets."""
    if kind == "EfficientPWConv":
        return EfficientPWConv(config["c_in"], config["c_out"])
    if kind == "EfficientPyrPool":
        final_activation = config.get("last_br", True)
        return EfficientPyramidPool(config["c_in"], config["proj"], config["c_out"], final_activation)
    options = {
        "size": tuple(config["native"]),
        "kernel_size": config.get("k", 3),
        "dilation": config.get("dil", (1, 1, 1)),
        "shuffle": config.get("shuffle", True),
    }
    if kind == "DICE":
        return DiCE(config["c_in"], config["c_out"], **options)
    if kind == "StridedDICE":
        return StridedDiCE(config["c_in"], **options)
    channels = config["c_out"] - round(config["c_in"] / 2)
    return ShuffleUnit(config["c_in"], config["c_out"], DiCE(channels, channels, **options))


def load_case(name: str) -> dict[str, Tensor]:
    with np.load(UNITS / name, allow_pickle=False) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def upstream_state(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("sd/"): value for key, value in arrays.items() if key.startswith("sd/")}


def test_cases_are_as_measured() -> None:
    kinds = {"DICE", "StridedDICE", "ShuffleDICEBlock", "EfficientPWConv", "EfficientPyrPool"}
    assert {case["kind"] for case in CASES} == kinds
    for case in CASES:
        assert hashlib.sha256((UNITS / case["file"]).read_bytes()).hexdigest() == case["sha256"], case["file"]


def test_cases_are_those_of_the_reference(reference: Path) -> None:
    """The copies in the repository are all of them, byte by byte."""
    originals = {path.name: path.read_bytes() for path in (reference / "reference/units").glob("*.npz")}
    assert originals == {path.name: path.read_bytes() for path in UNITS.glob("*.npz")}
    index = yaml.load((reference / "reference/units/index.yaml").read_text(encoding="utf-8"), yaml.CSafeLoader)
    assert [(case["file"], case["kind"], case["config"]) for case in index["cases"]] == [
        (case["file"], case["kind"], case["config"]) for case in CASES
    ]


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["file"].removesuffix(".npz"))
def test_unit_reproduces_the_reference(case: dict[str, Any], mode: str) -> None:
    arrays = load_case(case["file"])
    module = counterpart(case["kind"], case["config"]).double()
    edgenets.load_state_dict(module, upstream_state(arrays))
    module.train(mode == "train")
    x = arrays["x"].requires_grad_()

    out = module(x)
    (out * arrays["cot"]).sum().backward()

    torch.testing.assert_close(out, arrays[f"{mode}/out"], **TOLERANCE)
    torch.testing.assert_close(x.grad, arrays[f"{mode}/grad_x"], **TOLERANCE)
    keys = edgenets.upstream_keys(module)
    measured = {key for key in arrays if key.startswith(f"{mode}/grad/")}
    assert measured == {f"{mode}/grad/{keys[name]}" for name, _ in module.named_parameters()}
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.grad, arrays[f"{mode}/grad/{keys[name]}"], **TOLERANCE)
    for name, buffer in module.named_buffers():
        if not name.endswith("num_batches_tracked"):
            expected = arrays[f"train/buf/{keys[name]}" if mode == "train" else f"sd/{keys[name]}"]
            torch.testing.assert_close(buffer, expected, **TOLERANCE)


# Refusals


@pytest.fixture
def unit() -> DiCE:
    return DiCE(8, 8, size=(7, 7))


@pytest.fixture
def state() -> dict[str, Tensor]:
    return {key: value.float() for key, value in upstream_state(load_case("dice_native_7x7.npz")).items()}


def refused(module: nn.Module, state: dict[str, Tensor]) -> str:
    """The message with which a state is refused; the module must be as it was."""
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ValueError, match="not the weights of this") as caught:
        edgenets.load_state_dict(module, state)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    return str(caught.value)


def test_missing_key_is_named(unit: DiCE, state: dict[str, Tensor]) -> None:
    del state["conv_width.weight"]
    assert "missing key conv_width.weight" in refused(unit, state)


def test_unknown_key_is_named(unit: DiCE, state: dict[str, Tensor]) -> None:
    state["conv_depth.weight"] = torch.zeros(8, 1, 3, 3)
    assert "unknown key conv_depth.weight" in refused(unit, state)


def test_misshapen_key_is_named(unit: DiCE, state: dict[str, Tensor]) -> None:
    state["conv_height.weight"] = torch.zeros(8, 1, 3, 3)
    assert "conv_height.weight has shape (8, 1, 3, 3), expected (7, 1, 3, 3)" in refused(unit, state)


def test_all_problems_are_told_at_once(unit: DiCE, state: dict[str, Tensor]) -> None:
    del state["conv_width.weight"]
    state["conv_depth.weight"] = torch.zeros(1)
    state["conv_height.weight"] = torch.zeros(1)
    message = refused(unit, state)
    assert all(f"conv_{axis}.weight" in message for axis in ("width", "depth", "height"))


@pytest.mark.parametrize(
    "value",
    [[1.0], 3, torch.zeros(8, 1, 3, 3, device="meta"), torch.zeros(8, 1, 3, 3).to_sparse(), torch.zeros(1) * 1j],
    ids=["list", "int", "meta", "sparse", "complex"],
)
def test_values_must_be_dense_tensors(value: object, unit: DiCE, state: dict[str, Tensor]) -> None:
    """Some of these would fail halfway through copying."""
    before = {name: tensor.clone() for name, tensor in unit.state_dict().items()}
    with pytest.raises(ValueError, match=r"no state_dict: conv_height\.weight is no dense tensor"):
        edgenets.load_state_dict(unit, {**state, "conv_height.weight": value})
    assert all(torch.equal(tensor, before[name]) for name, tensor in unit.state_dict().items())


def test_long_lists_are_cut(unit: DiCE) -> None:
    keys = [key for key in edgenets.upstream_keys(unit).values() if not key.endswith("num_batches_tracked")]
    unknown = [f"conv{number}.weight" for number in range(20)]
    message = refused(unit, dict.fromkeys(unknown, torch.zeros(1)))
    assert f"{len(keys) - 5} more missing" in message
    assert all(f"missing key {key}" in message for key in keys[:5])
    assert "15 more unknown" in message
    assert all(f"unknown key {key}" in message for key in unknown[:5])


def test_linear_unit_has_no_place_for_the_last_slopes(state: dict[str, Tensor]) -> None:
    assert "unknown key proj_layer.cbr.2.weight" in refused(DiCE(8, 8, (7, 7), final_activation=False), state)


def test_batch_counters_may_be_missing(unit: DiCE, state: dict[str, Tensor]) -> None:
    counters = {key for key in edgenets.upstream_keys(unit).values() if key.endswith("num_batches_tracked")}
    assert counters
    assert not counters & set(state)
    edgenets.load_state_dict(unit, state)
    assert unit.norm.num_batches_tracked == 0
    edgenets.load_state_dict(unit, state | dict.fromkeys(counters, torch.tensor(7)))
    assert unit.norm.num_batches_tracked == 7


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(3, 3, 1),
        ShuffleUnit(8, 8, build_op("separable_se", 4, 4, size=(4, 4))),
        StridedShuffleUnit(8, 16, build_op("separable_se", 8, 8, stride=2, size=(4, 4))),
        build(mobilenetv2_architecture(0.5, image_size=32)),
        shufflenetv2(0.5, "torchvision", image_size=32),
        build(shufflenetv2_architecture(0.1, image_size=32).replace(stages=(("separable_k3", "skip"),) * 3)),
    ],
    ids=["Conv2d", "unit", "strided", "mobilenetv2", "torchvision's shufflenetv2", "skipping network"],
)
def test_module_without_counterpart(module: nn.Module) -> None:
    with pytest.raises(TypeError, match="EdgeNets has no counterpart of"):
        edgenets.load_state_dict(module, {})


# Whole networks


def whole_cases() -> list[Any]:
    """Names of the cases; spelt out here, so that collection does not need the reference data."""
    quick = {
        "s0.1_nat224x224_in224x224_nc1000_salt0",
        "s0.1_nat160x288_in224x224_nc1000_salt0",
        "s0.2_nat224x224_in193x241_nc1000_salt0",
        "s0.2_nat224x224_in224x224_nc80_salt0",
        "s1.0_nat224x224_in160x160_nc1000_salt0",
    }
    sizes = ("nat224x224_in256x320", "nat224x224_in160x160", "nat160x288_in160x288", "nat160x288_in224x224")
    names = [
        *(f"s{scale}_nat224x224_in224x224_nc1000_salt0" for scale in CHANNELS),
        *(f"s{scale}_{size}_nc1000_salt0" for scale in (0.1, 0.2, 1.0) for size in sizes),
        "s0.2_nat224x224_in193x241_nc1000_salt0",
        "s0.2_nat224x224_in224x224_nc80_salt0",
    ]
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


@pytest.fixture(scope="session")
def whole_index(reference: Path) -> dict[str, Any]:
    index = yaml.load((reference / "reference/models/index.yaml").read_text(encoding="utf-8"), yaml.CSafeLoader)
    return {case["name"]: case for case in index["cases"]}


def rule_made_state(network: Network, salt: int) -> dict[str, Tensor]:
    """Weights of EdgeNets made from the names of their keys, by the rule of the reference's index."""
    own = network.state_dict()
    shapes = {key: own[name].shape for name, key in edgenets.upstream_keys(network).items()}
    state = {}
    for key, shape in shapes.items():
        owner, _, name = key.rpartition(".")
        if name == "num_batches_tracked":
            state[key] = torch.tensor(0)
            continue
        seed = (zlib.crc32(key.encode()) + salt) & 0xFFFFFFFF
        z = torch.from_numpy(np.random.RandomState(seed).standard_normal(tuple(shape)))
        if name == "running_var":
            z = 0.8 * torch.exp(0.2 * z)
        elif name in {"running_mean", "bias"}:
            z = 0.1 * z
        elif f"{owner}.running_mean" in shapes:
            z = 1 + 0.1 * z
        elif z.dim() == 1:  # PReLU
            z = 0.25 + 0.1 * z
        else:
            z = z * np.sqrt(2 / z[0].numel())
        state[key] = z
    return state


@pytest.mark.parametrize("name", whole_cases())
def test_network_reproduces_the_reference(reference: Path, whole_index: dict[str, Any], name: str) -> None:
    case = whole_index[name]
    network = dicenet(case["s"], case["num_classes"], tuple(case["native_hw"])).double().eval()
    edgenets.load_state_dict(network, rule_made_state(network, case["salt"]))
    x = np.random.RandomState(case["input_seed"]).standard_normal((case["n"], 3, *case["input_hw"]))
    with torch.no_grad():
        logits = network(torch.from_numpy(x))
    with np.load(reference / "reference/models/logits.npz", allow_pickle=False) as arrays:
        expected = torch.from_numpy(arrays[name])
    assert logits.shape == expected.shape
    assert (logits - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_five_training_steps_reproduce_the_reference(reference: Path) -> None:
    text = (reference / "reference/models/train_steps.yaml").read_text(encoding="utf-8")
    published = yaml.load(text, yaml.CSafeLoader)
    network = dicenet(published["s"], published["num_classes"], tuple(published["native_hw"]), dropout=0.0).double()
    edgenets.load_state_dict(network, rule_made_state(network, published["salt"]))
    rng = np.random.RandomState(published["seed"])
    x = torch.from_numpy(rng.standard_normal((published["n"], 3, *published["input_hw"])))
    labels = torch.from_numpy(rng.randint(0, 10, published["n"]))
    assert labels.tolist() == published["labels"]
    with np.load(reference / "reference/models/train_steps.npz", allow_pickle=False) as arrays:
        expected = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    keys = edgenets.upstream_keys(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=4e-5)
    losses = []
    for step in range(5):
        logits = network(x)
        loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            torch.testing.assert_close(logits, expected["logits0"], **TOLERANCE)
            summaries = {keys[name]: grad_summary(parameter) for name, parameter in network.named_parameters()}
            assert summaries.keys() == published["grads"].keys()
            for key, summary in published["grads"].items():
                assert summaries[key] == pytest.approx(summary, rel=1e-9, abs=1e-9), key
            buffers = {keys[name]: buffer for name, buffer in network.named_buffers()}
            for key, (norm, total) in published["buffers_after_first_forward"].items():
                assert buffers[key].norm().item() == pytest.approx(norm, rel=1e-9), key
                assert buffers[key].sum().item() == pytest.approx(total, rel=1e-9, abs=1e-9), key
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx(published["losses"], rel=1e-9)
    with torch.no_grad():
        logits = network.eval()(x)
    assert (logits - expected["eval_logits_after5"]).abs().max() <= 1e-9 * logits.abs().max()


def grad_summary(parameter: nn.Parameter) -> list[float]:
    """Norm, sum and first two values of a gradient."""
    grad = parameter.grad
    assert grad is not None
    return [grad.norm().item(), grad.sum().item(), *grad.flatten()[:2].tolist()]


def test_rule_makes_the_weights_of_the_reference(reference: Path) -> None:
    made = rule_made_state(dicenet(0.1), salt=0)
    with np.load(reference / "reference/models/state_s0.1_salt0_f64.npz", allow_pickle=False) as arrays:
        assert set(arrays.files) == {key for key in made if not key.endswith("num_batches_tracked")}
        for key in arrays.files:
            np.testing.assert_allclose(made[key].numpy(), arrays[key], rtol=1e-14, err_msg=key)


def test_no_network_of_the_reference_is_forgotten(whole_index: dict[str, Any]) -> None:
    assert sorted(whole_index) == sorted(param.values[0] for param in whole_cases())


@pytest.mark.parametrize("scale", CHANNELS)
def test_keys_and_shapes_are_those_of_the_reference(reference: Path, scale: float) -> None:
    published = json.loads((reference / "reference/models/upstream_keys.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        network = dicenet(scale)
    own = network.state_dict()
    keys = edgenets.upstream_keys(network)
    assert set(keys) == set(own)
    assert {key: list(own[name].shape) for name, key in keys.items()} == published[str(scale)]


@pytest.mark.parametrize("scale", CHANNELS)
def test_cost_is_that_of_the_reference(reference: Path, scale: float) -> None:
    text = (reference / "reference/upstream_models.yaml").read_text(encoding="utf-8")
    published = yaml.load(text, yaml.CSafeLoader)["dicenet"][scale]
    cost = architecture_cost(dicenet_architecture(scale))
    assert (cost.macs, cost.params) == (published["conv_macs"], published["params"])


# ShuffleNetV2

# The logits of EdgeNets' own ShuffleNetV2 (commit 2b232d3) with rule-made weights of salt 0, float64, for five classes
# and a random image of 75 x 64 of seed 0.
SHUFFLENETV2_LOGITS = {
    0.1: (-546.0287447298471, 74.43527936857136, -701.0024465938408, 202.6041280009529, 925.4445199871326),
    0.5: (-704.8555904672526, 2203.728733398709, 9.067636487303332, -1234.1873385768079, -198.07726670684502),
    1.5: (-3525.1510971891344, 7443.537192106821, -3769.018435154505, 2056.4517397779578, 953.9970663714158),
}


@pytest.mark.parametrize("width", SHUFFLENETV2_LOGITS)
def test_shufflenetv2_reproduces_the_reference(width: float) -> None:
    network = shufflenetv2(width, "edgenets", num_classes=5).double().eval()
    edgenets.load_state_dict(network, rule_made_state(network, salt=0))
    x = np.random.RandomState(0).standard_normal((1, 3, 75, 64))
    with torch.no_grad():
        logits = network(torch.from_numpy(x))[0]
    expected = torch.tensor(SHUFFLENETV2_LOGITS[width], dtype=torch.float64)
    assert (logits - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_shufflenetv2_takes_its_classifier_as_published() -> None:
    network = shufflenetv2(0.1, num_classes=5)
    state = {key: network.state_dict()[name].clone() for name, key in edgenets.upstream_keys(network).items()}
    weight = torch.randn(5, 512, 1, 1)  # a point-wise convolution there
    edgenets.load_state_dict(network, state | {"classifier.weight": weight})
    assert torch.equal(network.head.classifier.weight, weight[:, :, 0, 0])
    with pytest.raises(ValueError, match=r"classifier\.weight has shape \(5, 512, 3, 1\), expected \(5, 512\)"):
        edgenets.load_state_dict(network, state | {"classifier.weight": torch.randn(5, 512, 3, 1)})


@pytest.mark.parametrize("width", EDGENETS_CHANNELS)
def test_shufflenetv2_costs_the_published_closed_form(reference: Path, width: float) -> None:
    text = (reference / "reference/upstream_models.yaml").read_text(encoding="utf-8")
    published = yaml.load(text, yaml.CSafeLoader)["shufflenetv2"]
    assert published.keys() == EDGENETS_CHANNELS.keys()
    assert tuple(published[width]["channels"]) == EDGENETS_CHANNELS[width]
    cost = architecture_cost(shufflenetv2_architecture(width))
    assert (cost.macs, cost.params) == (published[width]["conv_macs"], published[width]["params"])
