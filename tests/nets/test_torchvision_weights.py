"""Networks with torchvision's weights give torchvision's outputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dicenas.nets import (
    Network,
    architecture_cost,
    build,
    dicenet,
    dicenet_segmentation,
    mixnet_architecture,
    mnasnet_architecture,
    mobilenetv2_architecture,
    mobilenetv3_architecture,
    shufflenetv2,
    shufflenetv2_architecture,
    torchvision_weights,
)

#: torchvision's name, and our network for a number of classes and an image size.
COUNTERPARTS: dict[str, Callable[..., Network]] = {
    "shufflenet_v2_x0_5": lambda *size: shufflenetv2(0.5, "torchvision", *size),
    "shufflenet_v2_x1_0": lambda *size: shufflenetv2(1.0, "torchvision", *size),
    "shufflenet_v2_x1_5": lambda *size: shufflenetv2(1.5, "torchvision", *size),
    "shufflenet_v2_x2_0": lambda *size: shufflenetv2(2.0, "torchvision", *size),
    "mobilenet_v2": lambda *size: build(mobilenetv2_architecture(1.0, *size)),
    "mobilenet_v3_large": lambda *size: build(mobilenetv3_architecture("large", 1.0, *size)),
    "mobilenet_v3_small": lambda *size: build(mobilenetv3_architecture("small", 1.0, *size)),
    "mnasnet0_5": lambda *size: build(mnasnet_architecture(0.5, *size)),
    "mnasnet0_75": lambda *size: build(mnasnet_architecture(0.75, *size)),
    "mnasnet1_0": lambda *size: build(mnasnet_architecture(1.0, *size)),
    "mnasnet1_3": lambda *size: build(mnasnet_architecture(1.3, *size)),
}


def trained(name: str, **options: object) -> nn.Module:
    """A network of torchvision in which every tensor matters, statistics included."""
    network = torchvision.models.get_model(name, weights=None, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, 0, 0.2)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.bias, 0, 0.2)
    return network.eval()


def difference(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", COUNTERPARTS)
def test_reference_outputs_at_the_published_size(name: str) -> None:
    theirs = trained(name)
    ours = COUNTERPARTS[name]().eval()
    torchvision_weights.load_state_dict(ours, theirs.state_dict())
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert difference(ours(x), theirs(x)) < 1e-5


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in COUNTERPARTS), ("mobilenet_v2", {"width_mult": 0.35})]
)
def test_reference_outputs_to_the_last_digits(name: str, options: dict[str, float]) -> None:
    theirs = trained(name, num_classes=7, **options).double()
    ours = COUNTERPARTS[name](7, (75, 64)).double().eval()
    if options:
        ours = build(mobilenetv2_architecture(options["width_mult"], 7, (75, 64))).double().eval()
    torchvision_weights.load_state_dict(ours, theirs.state_dict())
    for size in ((75, 64), (33, 90)):
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            assert difference(ours(x), theirs(x)) < 1e-10


@pytest.mark.parametrize("name", [name for name in COUNTERPARTS if name not in ("mnasnet0_75", "mnasnet1_3")])
def test_reference_training_step(name: str) -> None:
    theirs = trained(name, num_classes=7, **({} if name.startswith("shufflenet") else {"dropout": 0.0})).double()
    ours = COUNTERPARTS[name](7, 64).double()
    torchvision_weights.load_state_dict(ours, theirs.state_dict())
    for module in ours.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    x, labels = torch.randn(4, 3, 64, 64, dtype=torch.float64), torch.tensor([0, 3, 3, 6])
    for network in (theirs.train(), ours.train()):
        nn.functional.cross_entropy(network(x), labels).backward()
    keys = torchvision_weights.torchvision_keys(ours)
    gradients = {key: parameter.grad for key, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[keys[name]], rtol=1e-8, atol=1e-10)
    # Running statistics too: the momentum is theirs.
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, theirs.get_buffer(keys[name]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", COUNTERPARTS)
def test_reference_costs(name: str) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, weights=None).eval()
        ours = COUNTERPARTS[name]()
        x = torch.empty(1, 3, 224, 224)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        theirs(x)
    cost = architecture_cost(ours.architecture)
    assert cost.macs == counter.get_total_flops() // 2
    assert cost.params == sum(parameter.numel() for parameter in theirs.parameters())


def test_keys_are_all_of_torchvision_s() -> None:
    for name, counterpart in COUNTERPARTS.items():
        with torch.device("meta"):
            theirs, ours = torchvision.models.get_model(name, weights=None), counterpart()
        keys = torchvision_weights.torchvision_keys(ours)
        assert list(keys) == list(ours.state_dict())
        assert sorted(keys.values()) == sorted(theirs.state_dict())


# Refusals


def test_wrong_weights_leave_the_network_as_it_was() -> None:
    network = shufflenetv2(0.5, "torchvision", num_classes=7)
    state = trained("shufflenet_v2_x0_5", num_classes=7).state_dict()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    wrong = dict(state)
    del wrong["stage3.0.branch1.2.weight"]
    wrong["stage9.weight"] = torch.zeros(1)
    wrong["fc.bias"] = torch.zeros(8)
    with pytest.raises(ValueError, match="not the weights of this Network") as caught:
        torchvision_weights.load_state_dict(network, wrong)
    message = str(caught.value)
    assert "missing key stage3.0.branch1.2.weight" in message
    assert "unknown key stage9.weight" in message
    assert "fc.bias has shape (8,), expected (7,)" in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    torchvision_weights.load_state_dict(network, state)
    assert torch.equal(network.head.classifier.bias, state["fc.bias"])


def test_weights_of_another_width_and_of_another_layout() -> None:
    network = shufflenetv2(0.5, "torchvision")
    with pytest.raises(ValueError, match=r"stage2\.0\.branch1\.2\.weight has shape \(58, 24, 1, 1\), expected \(24,"):
        torchvision_weights.load_state_dict(network, trained("shufflenet_v2_x1_0").state_dict())
    with pytest.raises(ValueError, match=r"missing key conv1\.0\.weight"):
        torchvision_weights.load_state_dict(network, trained("mobilenet_v2").state_dict())


def test_only_networks_have_counterparts() -> None:
    with pytest.raises(TypeError, match=r"a network of dicenas\.build .*not a SegmentationNetwork"):
        torchvision_weights.load_state_dict(dicenet_segmentation(0.1, 21), {})


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: dicenet(0.1), "no counterpart of a shufflenetv2 network; it has of shufflenetv2_torchvision, mobilen"),
        (lambda: shufflenetv2(0.1), "no counterpart of a shufflenetv2_edgenets network"),
        (
            lambda: build(
                shufflenetv2_architecture(0.5, "torchvision").replace(stages=(("separable_k3", "dice_k3"),) * 3)
            ),
            "no counterpart of DiCE",
        ),
        (
            lambda: build(mobilenetv2_architecture(0.35).replace(stages=(("separable_se_k3",),) * 7)),
            "no counterpart of SeparableConv",
        ),
        (
            # The weights would fit.
            lambda: build(
                mobilenetv3_architecture("large").replace(
                    stages=(("separable_k3_e1_hardswish",), *mobilenetv3_architecture("large").stages[1:])
                )
            ),
            "torchvision's network of the mobilenetv3_large family has the blocks separable_k3_e1; separable_k3_e4, ",
        ),
        (lambda: build(mixnet_architecture()), "no counterpart of a mixnet network"),
    ],
)
def test_networks_without_counterpart(network: Callable[[], Network], message: str) -> None:
    with torch.device("meta"):
        built = network()
    with pytest.raises(TypeError, match=message):
        torchvision_weights.load_state_dict(built, {})
