"""A network sliced from shared weights is the plain network with these weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from random import Random

import pytest
import torch
from torch import Tensor, nn

from dicenas.architecture import Architecture
from dicenas.evaluation import Supernet
from dicenas.nets import ShuffleNetV2, build, get_backbone, list_backbones
from dicenas.ops import expand_candidates, list_ops, parse_candidate, register_op
from dicenas.ops import registry as registry_module
from dicenas.space import SpaceSpec

USUAL = ("separable_k3", "separable_se_k3", "dice_k3", "skip")
SIZE = 12


def small_spec(backbone: str, ops: tuple[str, ...] = USUAL, resolutions: tuple[int, ...] = (SIZE,)) -> SpaceSpec:
    """A space of small networks of two widths; ``ops`` beside one that fits everywhere."""
    family = get_backbone(backbone)
    return SpaceSpec(
        backbone,
        ops=tuple(dict.fromkeys(("separable_k3", *ops))),
        widths=sorted(family.channels)[:2] if isinstance(family, ShuffleNetV2) else (0.1, 0.3),
        depths=((1, 2),) + ((1,),) * (family.num_stages - 1),
        stems=("small",),
        resolutions=resolutions,
        num_classes=3,
        expansions=(1, 2.5) if family.expansions else (),
        activations=("relu", "prelu") if family.expansions else (),
    )


def with_op(spec: SpaceSpec, op: str, width: float, rng: Random) -> Architecture:
    """An architecture of this width with this op wherever it fits."""
    sample = {choice.label: rng.choice(choice.values) for choice in spec.choices}
    family = get_backbone(spec.backbone)
    for choice in spec.choices:
        if "_b" in choice.label:
            holding = [name for name in choice.values if family.candidate(str(name)) == op]
            sample[choice.label] = rng.choice(holding or choice.values)
        elif choice.label.endswith("_depth"):
            sample[choice.label] = max(choice.values)
    return spec.architecture({**sample, "width": width})


def check(supernet: Supernet, architecture: Architecture) -> None:
    """Compare logits and gradients with those of the plain network, to the bit."""
    net = build(architecture)
    supernet.copy_to(net, architecture)
    x = torch.randn(2, 3, *architecture.image_size)
    goal = torch.randn(2, architecture.num_classes)
    supernet.zero_grad()
    results = []
    for run in (net, lambda images: supernet(images, architecture)):
        torch.manual_seed(1)  # of dropout
        logits = run(x)
        (logits * goal).sum().backward()
        results.append(logits.detach())
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
    gradients = copy.deepcopy(supernet)
    with torch.no_grad():
        for name, weight in supernet.weights.items():
            gradients.weights[name].copy_(torch.zeros_like(weight) if weight.grad is None else weight.grad)
    sliced = gradients.weights_of(architecture)
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(sliced[name].detach(), parameter.grad, rtol=1e-5, atol=1e-6, msg=name)
    # Nothing beside the slices was reached.
    total = sum(int(weight.count_nonzero()) for weight in gradients.weights.values())
    assert total == sum(int(value.count_nonzero()) for value in sliced.values())


@pytest.mark.parametrize("backbone", list_backbones())
def test_every_backbone(backbone: str) -> None:
    # Spaces of expansions and activations are large enough without a second size.
    spec = small_spec(backbone, resolutions=(SIZE,) if get_backbone(backbone).expansions else (SIZE, 9))
    supernet = Supernet(spec)
    rng = Random(0)
    for width, op in zip(spec.widths, ("dice_k3", "separable_se_k3"), strict=True):
        check(supernet, with_op(spec, op, width, rng))


@pytest.mark.parametrize("op", expand_candidates(list_ops()))
def test_every_op(op: str) -> None:
    # The ops of one kernel size stand for the others.
    info, kernel_size = parse_candidate(op)
    if kernel_size == min(info.kernel_sizes, default=1):
        spec = small_spec("mobilenetv1", (op,))
        supernet = Supernet(spec)
        for width in spec.widths:
            check(supernet, with_op(spec, op, width, Random(0)))


@pytest.mark.slow
@pytest.mark.parametrize("op", expand_candidates(list_ops()))
@pytest.mark.parametrize("backbone", list_backbones())
def test_every_op_in_every_backbone(backbone: str, op: str) -> None:
    spec = small_spec(backbone, (op,))
    supernet = Supernet(spec)
    for width in spec.widths:
        check(supernet, with_op(spec, op, width, Random(0)))


SHUFFLENET = small_spec("shufflenetv2")


@pytest.fixture(scope="module")
def shufflenet() -> Supernet:
    torch.manual_seed(0)
    return Supernet(SHUFFLENET)


def test_widths_share_all_but_what_cannot_be_sliced(shufflenet: Supernet) -> None:
    own = {name for name in shufflenet.weights if "@" in name}
    # The four groups of DiCENet's head have other channels at each width.
    assert own == {"head//expand/weight@0"}
    widest = build(with_op(SHUFFLENET, "dice_k3", max(SHUFFLENET.widths), Random(0)))
    assert shufflenet.weights["stem//0/conv/weight"].shape == widest.stem[0].conv.weight.shape
    mobilenet = Supernet(small_spec("mobilenetv2"))
    assert any("dice_k3/op/dim_fuse/spatial/conv/weight@" in name for name in mobilenet.weights)
    assert not any("separable" in name for name in mobilenet.weights if "@" in name)


def test_depths_and_ops_share_their_blocks(shufflenet: Supernet) -> None:
    rng = Random(1)
    deep = with_op(SHUFFLENET, "dice_k3", SHUFFLENET.widths[0], rng)
    shallow = deep.replace(stages=(deep.stages[0][:-1], *deep.stages[1:-1], (deep.stages[-1][0], "separable_k3")))
    assert shallow in SHUFFLENET
    first, second = shufflenet.weights_of(deep), shufflenet.weights_of(shallow)
    for name in ("stem.0.conv.weight", "stages.0.0.left.0.conv.weight", "head.classifier.weight"):
        assert first[name].data_ptr() == second[name].data_ptr()
    unit = "stages.2.1.op."
    assert not {n for n in first if n.startswith(unit)} & {n for n in second if n.startswith(unit)}


def test_a_trained_slice_changes_the_wide_network(shufflenet: Supernet) -> None:
    narrow, wide = (with_op(SHUFFLENET, "dice_k3", width, Random(0)) for width in SHUFFLENET.widths)
    twin = copy.deepcopy(shufflenet)
    before = {name: value.detach().clone() for name, value in twin.weights_of(wide).items()}
    with torch.no_grad():
        for value in twin.weights_of(narrow).values():
            value.add_(1)  # views for all that is taken evenly
    after = twin.weights_of(wide)
    kept = after["stem.0.conv.weight"] - before["stem.0.conv.weight"]
    torch.testing.assert_close(kept[:8], torch.ones_like(kept[:8]))
    assert not kept[8:].any()


def test_what_does_not_fit_is_refused(shufflenet: Supernet) -> None:
    inside = SHUFFLENET.random(Random(0))
    for outside in (inside.replace(width=1.0), inside.replace(num_classes=4), inside.replace(image_size=(8, 8))):
        with pytest.raises(ValueError, match="is not a point of the supernet's space"):
            shufflenet(torch.randn(2, 3, 8, 8), outside)
    other = next(a for a in iter(lambda: SHUFFLENET.random(Random()), None) if a.width != inside.width)
    with pytest.raises(ValueError, match="the network is not that of architecture"):
        shufflenet.copy_to(build(other), inside)


# Ops of other people


@pytest.fixture
def registered() -> Iterator[None]:
    """Forget what a test registers."""
    before = dict(registry_module._REGISTRY)
    yield
    registry_module._REGISTRY.clear()
    registry_module._REGISTRY.update(before)


class Scaled(nn.Module):
    """A convolution and a buffer that is no statistic."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, 1)
        self.register_buffer("scale", torch.full((1, out_channels, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.scale


def register_scaled(**options: object) -> None:
    @register_op("scaled", kernel_sizes=(), **options)
    def scaled(in_channels: int, out_channels: int, *, stride: int, **_: object) -> nn.Module:
        return Scaled(in_channels, out_channels, stride)


@pytest.mark.usefixtures("registered")
def test_an_op_that_does_not_slice_has_weights_for_each_width() -> None:
    register_scaled()
    spec = small_spec("mobilenetv1", ("scaled",))
    supernet = Supernet(spec)
    assert {name.partition("@")[2] for name in supernet.weights if "/scaled/" in name} == {"", "0"}
    assert not any("@" in name for name in supernet.weights if "/separable_k3/" in name)
    for width in spec.widths:
        check(supernet, with_op(spec, "scaled", width, Random(0)))


@pytest.mark.usefixtures("registered")
def test_an_op_says_how_it_slices() -> None:
    def last(wide: nn.Module, narrow: nn.Module) -> dict[str, tuple[range, ...]]:
        return {
            name: tuple(range(m - n, m) for n, m in zip(p.shape, wide.get_parameter(name).shape, strict=True))
            for name, p in narrow.named_parameters()
        }

    register_scaled(slice=last)
    spec = small_spec("mobilenetv1", ("scaled",))
    supernet = Supernet(spec)
    assert not any("@" in name for name in supernet.weights if "/scaled/" in name)
    narrow, wide = (with_op(spec, "scaled", width, Random(0)) for width in spec.widths)
    check(supernet, narrow)
    name = "stages.1.0.conv.bias"
    taken = supernet.weights_of(narrow)[name]
    assert torch.equal(taken, supernet.weights_of(wide)[name][-len(taken) :])


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (lambda p: tuple(range(n + 1) for n in p.shape), "shape"),
        (lambda p: tuple(range(1000, 1000 + n) for n in p.shape), "positions outside the shared shape"),
        (lambda p: tuple(range(-1, n - 1) for n in p.shape), "positions outside the shared shape"),
    ],
)
def test_a_hook_that_is_wrong_is_named(chosen: object, message: str) -> None:
    register_scaled(slice=lambda wide, narrow: {name: chosen(p) for name, p in narrow.named_parameters()})
    with pytest.raises(ValueError, match=f"scaled, conv.weight: the slice hook gives {message}"):
        Supernet(small_spec("mobilenetv1", ("scaled",)))
