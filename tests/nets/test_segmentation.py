"""The segmentation network, held to EdgeNets' trained ones and to its published costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dicenas import fuse_for_inference
from dicenas.cost import count_macs, count_params
from dicenas.nets import SegmentationNetwork, dicenet, dicenet_segmentation, edgenets
from dicenas.nets.segmentation import EfficientPyramidPool
from dicenas.ops import EfficientPWConv

# Spelt out, so that collection does not need the reference data.
WEIGHTS = {
    "dicenet_s_0.2_pascal_256x256": (0.2, 21),
    "dicenet_s_0.2_pascal_384x384": (0.2, 21),
    "dicenet_s_0.5_city_512x256": (0.5, 20),
    "dicenet_s_1.0_pascal_384x384": (1.0, 21),
}
SIZES = ((224, 224), (256, 256), (192, 320))
SCALES = (0.2, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
CLASSES = {"pascal": 21, "city": 20}
TOLERANCE = 1e-4  # of the largest value, in float32; the differences are a hundredth of it


@pytest.fixture(scope="session")
def trained(reference: Path) -> dict[str, dict[str, Any]]:
    """The trained cases, by file."""
    text = (reference / "reference/trained/index.yaml").read_text(encoding="utf-8")
    return {case["file"]: case for case in yaml.load(text, yaml.CSafeLoader)["cases"]}


@pytest.fixture(scope="module")
def small() -> SegmentationNetwork:
    return dicenet_segmentation(0.2, 5, image_size=64).eval()


def difference(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float(((actual - expected).abs().max() / expected.abs().max()).detach())


def test_no_trained_reference_is_forgotten(reference: Path, trained: dict[str, Any]) -> None:
    folder = reference / "reference"
    assert {path.stem for path in (folder / "weights").iterdir()} == set(WEIGHTS)
    files = {f"trained/{name}_in{height}x{width}.npz" for name in WEIGHTS for height, width in SIZES}
    assert set(trained) == files == {f"trained/{path.name}" for path in (folder / "trained").glob("*.npz")}


@pytest.mark.parametrize("name", WEIGHTS)
def test_trained_network_reproduces_the_reference(reference: Path, trained: dict[str, Any], name: str) -> None:
    network = edgenets.read_segmentation(reference / f"reference/weights/{name}.pth").eval()
    assert (network.scale, network.num_classes) == WEIGHTS[name]
    assert network.image_size == (224, 224)
    stages: list[Tensor] = []
    for stage in network.stages:
        stage.register_forward_hook(lambda module, inputs, output: stages.append(output))
    for height, width in SIZES:
        case = trained[f"trained/{name}_in{height}x{width}.npz"]
        x = np.random.RandomState(case["input_seed"]).standard_normal((1, 3, height, width))
        stages.clear()
        with torch.no_grad():
            logits = network(torch.from_numpy(x).float())
        with np.load(reference / "reference" / case["file"], allow_pickle=False) as arrays:
            expected = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        for level, actual in zip(("level3", "level4"), stages, strict=True):
            actual = actual[:, :: case[f"{level}_channel_stride"]]
            assert difference(actual, expected[level]) <= TOLERANCE
        assert difference(logits[..., ::8, ::8], expected["logits_stride8"]) <= TOLERANCE
        assert torch.equal(logits.argmax(1)[:, ::4, ::4], expected["labels_stride4"])
        assert difference(logits.flatten()[:8], torch.tensor(case["logits"]["first8"])) <= TOLERANCE
        assert logits.norm().item() == pytest.approx(case["logits"]["l2"], rel=TOLERANCE)
        # A pixel where two classes are as likely as each other may fall to either.
        histogram = torch.bincount(logits.argmax(1).flatten(), minlength=network.num_classes)
        assert (histogram - torch.tensor(case["label_histogram"])).abs().sum() <= 20


def cost_rows() -> list[Any]:
    """Scale and key of each published cost; every scale once is quick, and so is every dataset and size."""
    keys = ("pascal_(256, 256)", "pascal_(384, 384)", "city_(256, 512)", "city_(512, 1024)")
    return [
        pytest.param(scale, key, marks=() if scale == SCALES[0] or key == keys[0] else pytest.mark.slow)
        for scale in SCALES
        for key in keys
    ]


@pytest.fixture(scope="session")
def published(reference: Path) -> dict[float, dict[str, dict[str, float]]]:
    """Parameters and EdgeNets' operations, in millions, by scale, dataset and size."""
    text = (reference / "reference/upstream_models.yaml").read_text(encoding="utf-8")
    return yaml.load(text, yaml.CSafeLoader)["segmentation"]["scales"]


def test_no_cost_of_the_reference_is_forgotten(published: dict[float, dict[str, Any]]) -> None:
    assert [(scale, key) for scale, rows in published.items() for key in rows] == [row.values for row in cost_rows()]


@pytest.mark.parametrize(("scale", "key"), cost_rows())
def test_cost_is_that_of_the_reference(published: dict[float, dict[str, Any]], scale: float, key: str) -> None:
    dataset, _, size = key.partition("_")
    height, width = map(int, size.strip("()").split(", "))
    classes = CLASSES[dataset]
    with torch.device("meta"):
        network = dicenet_segmentation(scale, classes)
    row = published[scale][key]
    assert count_params(network) == row["params"]
    # EdgeNets' counter takes half an operation more for each output of a convolution with a bias: the last one of
    # the decoder, at half the image's size.
    bias = classes * (height // 2) * (width // 2) // 2
    assert count_macs(network, (3, height, width)) + bias == round(1e6 * row["flops_M"])


@given(st.integers(1, 70), st.integers(1, 70))
def test_images_of_any_size(small: SegmentationNetwork, height: int, width: int) -> None:
    x = torch.randn(1, 3, height, width)
    with torch.no_grad():
        out = small(x)
    assert out.shape == (1, 5, height, width)
    assert out.isfinite().all()


def test_encoder_is_the_classifier_s() -> None:
    classifier = dicenet(0.2, image_size=64).eval()
    network = dicenet_segmentation(0.2, 5, image_size=64).eval()
    keys = network.load_state_dict(classifier.state_dict(), strict=False)
    assert all(key.startswith(("stages.2.", "head.")) for key in keys.unexpected_keys)
    assert not any(key.startswith(("stem.", "stages.")) for key in keys.missing_keys)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network.stages(network.stem(x)), classifier.stages[:2](classifier.stem(x)))


def test_every_parameter_learns() -> None:
    network = dicenet_segmentation(0.2, 5, image_size=64)
    logits = network(torch.randn(2, 3, 64, 96))
    nn.functional.cross_entropy(logits, torch.randint(5, (2, 64, 96))).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_fresh_weights_are_drawn_as_published() -> None:
    network = dicenet_segmentation(1.0, 21)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            # Kaiming's normal distribution over the fan-out, groups left out of account.
            std = (2 / (module.out_channels * module.kernel_size[0] ** 2)) ** 0.5
            assert module.weight.std().item() == pytest.approx(std, rel=0.6), name
            if module.bias is not None:
                assert not module.bias.any()


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_fused(size: tuple[int, int]) -> None:
    network = dicenet_segmentation(0.2, 5, image_size=64).eval()
    fused = fuse_for_inference(network)
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert difference(fused(x), network(x)) < 1e-5


@pytest.mark.parametrize("size", [pytest.param((64, 64), marks=pytest.mark.slow), (50, 70)])
def test_exported_program(small: SegmentationNetwork, size: tuple[int, int]) -> None:
    x = torch.randn(1, 3, *size)
    program = torch.export.export(small, (x,))
    with torch.no_grad():
        assert difference(program.module()(x), small(x)) < 1e-5


def test_gate_sees_all_channels() -> None:
    conv = EfficientPWConv(6, 4).eval()
    x = torch.randn(1, 6, 5, 5)
    changed = x.clone()
    changed[:, 5] += 1
    assert conv.conv.conv.groups == 2
    out, moved = conv(x), conv(changed)
    # Channel 5 is in the second group; the first two outputs move by the gate alone, each by one factor.
    ratio = (moved / out)[:, :2]
    torch.testing.assert_close(ratio, ratio[..., :1, :1].expand_as(ratio))
    assert (ratio - 1).abs().max() > 1e-4


def test_pyramid_keeps_any_size() -> None:
    pool = EfficientPyramidPool(8, 3, 7).eval()
    for size in ((1, 1), (2, 9), (5, 5), (70, 11)):
        assert pool(torch.randn(2, 8, *size)).shape == (2, 7, *size)


@pytest.mark.parametrize("classes", [-1, 0, 1])
def test_too_few_classes(classes: int) -> None:
    with pytest.raises(ValueError, match=f"num_classes {classes} is below 2"):
        dicenet_segmentation(1.0, classes)


def test_unpublished_scale() -> None:
    with pytest.raises(ValueError, match=r"no width 0\.3"):
        dicenet_segmentation(0.3, 21)
