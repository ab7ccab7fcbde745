"""Zero-cost proxies: small cases computed by hand, what they do not depend on, and every op of the registry."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dicenas.evaluation import PROXIES, proxy_scores
from dicenas.evaluation.proxies import grad_norm, jacob_cov, naswot, snip, synflow, zen_score
from dicenas.ops import build_op, list_ops

LABELS = torch.zeros(1, dtype=torch.int64)
K = 1e-5


def linear(*rows: list[float]) -> nn.Linear:
    weight = torch.tensor(rows)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    return layer


def pixels(*images: list[float]) -> Tensor:
    """Images of one channel and one row."""
    return torch.tensor(images)[:, None, None, :]


def test_synflow_by_hand() -> None:
    net = nn.Sequential(nn.Flatten(), linear([1.0, -2.0], [3.0, 4.0]), nn.ReLU(), linear([-1.0, 0.5]))
    # R = 1 (1 + 2) + 0.5 (3 + 4) = 6.5, and both layers' weights sum to it.
    assert synflow(net, pixels([0.0, -9.0]), LABELS) == pytest.approx(math.log(2 * 6.5))
    # Normalisations and saturating activations are the identity.
    normalised = nn.Sequential(net[0], net[1], nn.BatchNorm1d(2), nn.ReLU6(), net[3])
    assert synflow(normalised, pixels([0.0, 0.0]), LABELS) == synflow(net, pixels([0.0, 0.0]), LABELS)


def test_naswot_by_hand() -> None:
    net = nn.Sequential(nn.Flatten(), nn.PReLU())
    # Codes 110, 100 and 001 agree in 2, 0 and 1 of 3 units.
    images = pixels([5.0, 1.0, -1.0], [0.1, -1.0, 0.0], [-1.0, -2.0, 3.0])
    expected = torch.tensor([[3.0, 2.0, 0.0], [2.0, 3.0, 1.0], [0.0, 1.0, 3.0]]).det().item()
    assert expected == pytest.approx(12)
    assert naswot(net, images, LABELS) == pytest.approx(math.log(12))
    # A second layer of the same codes doubles the kernel.
    assert naswot(nn.Sequential(net, nn.ReLU()), images, LABELS) == pytest.approx(math.log(2**3 * 12))


def test_jacob_cov_by_hand() -> None:
    net = nn.Sequential(nn.Flatten(), linear([1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]), nn.ReLU())
    # The first unit alone is active for one image, the second for the other: uncorrelated gradients.
    apart = pixels([1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0])
    assert jacob_cov(net, apart, LABELS) == pytest.approx(-2 * (math.log(1 + K) + 1 / (1 + K)))
    # The same unit for both: eigenvalues 2 and 0.
    alike = pixels([1.0, 0.0, 0.0, 1.0], [2.0, 0.0, 0.0, 1.0])
    expected = -(math.log(2 + K) + 1 / (2 + K) + math.log(K) + 1 / K)
    assert jacob_cov(net, alike, LABELS) == pytest.approx(expected, rel=1e-6)


def test_grad_norm_and_snip_by_hand() -> None:
    # Equal logits: both classes have probability 1/2, and the gradient is -x/2 in one row and x/2 in the other.
    net = nn.Sequential(nn.Flatten(), linear([1.0, 0.0], [1.0, 0.0]))
    image = pixels([3.0, 4.0])
    assert grad_norm(net, image, LABELS) == pytest.approx(5 * math.sqrt(0.5))
    assert snip(net, image, LABELS) == pytest.approx(2 * 0.5 * 3)


def test_zen_score_by_hand() -> None:
    image = torch.zeros(8, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    logs = []
    for _ in range(4):
        weight, _, change = (torch.randn(shape, generator=generator) for shape in ((1, 1, 1, 1), (8,), (8,)))
        logs.append(math.log((0.01 * weight * change).abs().mean().item()))
    conv = nn.Conv2d(1, 1, 1, bias=False)
    expected = sum(logs) / 4
    assert zen_score(conv, image, LABELS) == pytest.approx(expected, rel=1e-4)
    # What a normalisation divides by is put back.
    assert zen_score(nn.Sequential(conv, nn.BatchNorm2d(1)), image, LABELS) == pytest.approx(expected, rel=1e-4)


def test_baselines() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    scores = proxy_scores(net, torch.zeros(2, 3, 5, 6), LABELS, ("macs", "params"))
    assert scores == {"macs": 30 * 4 * 27 + 4 * 2, "params": 4 * 28 + 10}


def homogeneous(seed: int) -> nn.Sequential:
    """A network without biases, in which one layer's factor can be another's."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(2, 3, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5, bias=False), nn.ReLU(),
            nn.Linear(5, 3, bias=False),
        ).double()  # fmt: skip


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 2, 4, 4, dtype=torch.float64, generator=generator), torch.tensor([0, 1, 2, 0])


@given(st.integers(0, 1000), st.floats(0.1, 10), st.permutations(range(4)))
def test_what_scores_do_not_depend_on(seed: int, factor: float, order: list[int]) -> None:
    net, (images, labels) = homogeneous(seed), batch(seed)

    def scores(net: nn.Module = net, images: Tensor = images, labels: Tensor = labels) -> dict[str, float]:
        return {name: PROXIES[name](net, images, labels) for name in ("grad_norm", "jacob_cov", "snip", "synflow")}

    def changed(change: Callable[[nn.Sequential], None]) -> nn.Sequential:
        other = homogeneous(seed)
        with torch.no_grad():
            change(other)
        return other

    def shift_factor(net: nn.Sequential) -> None:
        net[0].weight.mul_(factor)
        net[5].weight.div_(factor)

    def flip_signs(net: nn.Sequential) -> None:
        for parameter in net.parameters():
            parameter.mul_(torch.randn_like(parameter).sign())

    before = scores()
    # A network whose units are all dead for an image has no Jacobian to compare.
    assert scores(images=images[order], labels=labels[order]) == pytest.approx(before, rel=1e-6, nan_ok=True)
    rescaled = scores(changed(shift_factor))
    for name in ("jacob_cov", "snip", "synflow"):
        assert rescaled[name] == pytest.approx(before[name], rel=1e-6, nan_ok=True)
    louder = scores(changed(lambda net: net[5].weight.mul_(factor)))
    assert louder["jacob_cov"] == pytest.approx(before["jacob_cov"], rel=1e-6, nan_ok=True)
    assert louder["synflow"] == pytest.approx(before["synflow"] + math.log(factor), rel=1e-6)
    assert synflow(changed(flip_signs), -images, labels) == pytest.approx(before["synflow"], rel=1e-9)
    # Codes are signs: neither a positive factor nor the order of the images changes the kernel's determinant.
    assert naswot(net, factor * images[order], labels) == pytest.approx(naswot(net, images, labels), rel=1e-6)
    assert zen_score(net, images, labels) == zen_score(homogeneous(seed + 1), -images, labels)


@pytest.mark.parametrize("activation", ["prelu", "relu", "hardswish"])
@pytest.mark.parametrize("op", sorted(list_ops()))
def test_every_op_is_scored_and_stays_as_it_is(op: str, activation: str) -> None:
    block = build_op(op, 8, 8, stride=1, size=(6, 6), activation=activation)
    stem = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    net = nn.Sequential(stem, block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(8, 4)).train()
    images, labels = torch.randn(5, 3, 6, 6), torch.arange(5) % 4
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    random = torch.random.get_rng_state()
    scores = proxy_scores(net, images, labels, tuple(PROXIES))
    assert list(scores) == list(PROXIES)
    assert all(math.isfinite(score) for score in scores.values())
    assert proxy_scores(net, images, labels, tuple(PROXIES)) == scores
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert all(module.training and not module._forward_pre_hooks for module in net.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    with torch.inference_mode():  # whatever the caller is at
        assert proxy_scores(net, images, labels, ("naswot",))["naswot"] == scores["naswot"]


def test_scores_that_say_nothing() -> None:
    images = torch.randn(4, 3, 4, 4)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    with pytest.raises(ValueError, match="proxy naswot gives -inf for this network"):
        proxy_scores(plain, images, torch.arange(4) % 3, ("naswot",))
    nn.init.constant_(plain[1].weight, math.nan)
    for name in ("grad_norm", "jacob_cov", "snip"):
        with pytest.raises(ValueError, match=f"proxy {name} gives nan"):
            proxy_scores(plain, images, torch.arange(4) % 3, (name,))
    nn.init.zeros_(plain[1].weight)
    with pytest.raises(ValueError, match="proxy synflow gives -inf"):
        proxy_scores(plain, images, torch.arange(4) % 3, ("synflow",))
    with pytest.raises(ValueError, match="unknown proxy 'synflo'; did you mean 'synflow'"):
        proxy_scores(plain, images, LABELS, ("synflo",))
