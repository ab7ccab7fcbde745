"""Zero-cost proxies: what a network with fresh weights gives away about its accuracy, from one batch of images.

Each score is higher for networks that it expects to be better. Proxies work on a copy, on the plain PyTorch ops, so
that neither weights nor statistics of the network change and scores do not depend on the native kernels. Weights are
the parameters of two dimensions and more: those of convolutions, linear layers and DiCE units, not those of
normalisations, activations and biases. Normalisations use the statistics of the batch unless told otherwise; dropout is
off.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dicenas.cost import count_macs, count_params
from dicenas.ops import kernels
from dicenas.spelling import did_you_mean

__all__ = [
    "PROXIES",
    "Proxy",
    "check_proxies",
    "grad_norm",
    "jacob_cov",
    "macs",
    "naswot",
    "params",
    "proxy_scores",
    "snip",
    "synflow",
    "zen_score",
]

#: Scores a network from normalised images ``(N, C, H, W)`` and their labels ``(N,)``.
Proxy: TypeAlias = Callable[[nn.Module, Tensor, Tensor], float]

#: Activations that pass positive numbers on and hold negative ones back: which side they are on is a unit's code.
_RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.PReLU, nn.LeakyReLU, nn.ELU, nn.Hardswish, nn.SiLU, nn.GELU)
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)

_JACOB_COV_K = 1e-5
_ZEN_ALPHA = 0.01
_ZEN_DRAWS = 4


def synflow(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    r"""Return the logarithm of the synaptic flow (Tanaka et al. 2020, arXiv 2006.05467).

    The flow is the sum over the weights of :math:`\theta\,\partial R / \partial\theta`, where R is the sum of the
    outputs for an image of ones, all weights and biases being replaced by their absolute values. Normalisations and
    activations are taken as the identity, which rectifiers are on positive numbers; images and labels do not matter.
    It is computed in float64, and its natural logarithm is given since it grows by a factor with each layer.
    """
    with _copied(net) as net:
        net.double()
        for parameter in net.parameters():
            parameter.detach().abs_()
        for module in net.modules():
            if isinstance(module, (*_NORMS, *_RECTIFIERS)):
                module.forward = _identity  # type: ignore[method-assign, assignment]
        ones = torch.ones_like(images[:1], dtype=torch.float64)
        flow = sum(torch.sum(weight * gradient).item() for weight, gradient in _gradients(net, net(ones).sum()))
    return math.log(flow) if flow > 0 else -math.inf


def jacob_cov(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return how different the images' Jacobians are (Mellor et al. 2020, arXiv 2006.04647, first version).

    With the eigenvalues v of the matrix of correlations between the images' gradients of the summed logits by their
    pixels, it is the sum of ``-(log(v + k) + 1 / (v + k))``, k = 1e-5.
    """
    with _copied(net, batch_statistics=True) as net:
        images = images.clone().requires_grad_()
        (jacobian,) = torch.autograd.grad(net(images).sum(), images)
    correlations = torch.corrcoef(jacobian.flatten(1).double())
    if not correlations.isfinite().all():  # some image's gradient is the same for all pixels
        return math.nan
    eigenvalues = torch.linalg.eigvalsh(correlations.reshape(len(images), -1))
    return -(torch.log(eigenvalues + _JACOB_COV_K) + 1 / (eigenvalues + _JACOB_COV_K)).sum().item()


def naswot(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the logarithm of the determinant of the images' code kernel (Mellor et al. 2021, arXiv 2006.04647).

    An image's code says of each unit whether the input of its activation is positive; the kernel holds for each two
    images in how many units their codes agree. Activations are those of rectifying kind: ReLU, PReLU, h-swish, SiLU.
    Two images of one code, or a network without such activations, give minus infinity.
    """
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        positive = inputs[0].flatten(1) > 0
        units = positive.shape[1]
        # Products of signs sum to agreements less disagreements: whole numbers, which float32 holds up to 2**24.
        signs = positive.to(torch.float32 if units < 2**24 else torch.float64).mul_(2).sub_(1)
        kernel.add_((signs @ signs.T).double().add_(units).div_(2))

    with _copied(net, batch_statistics=True) as net, torch.no_grad():
        for module in net.modules():
            if isinstance(module, _RECTIFIERS):
                module.register_forward_pre_hook(count)
        net(images)
    return torch.linalg.slogdet(kernel).logabsdet.item()


def grad_norm(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the sum over layers of the Euclidean norm of the weights' gradient (Abdelfattah et al., arXiv 2101.08134).

    The loss is the mean cross-entropy of the images.
    """
    with _copied(net, batch_statistics=True) as net:
        loss = F.cross_entropy(net(images), labels)
        return sum(gradient.norm().item() for _, gradient in _gradients(net, loss))


def snip(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the sum of the weights' connection sensitivities (Lee et al. 2019, arXiv 1810.02340).

    It is the sum of the absolute products of weights and gradients; the loss is the mean cross-entropy of the images.
    That this sum scores a network is from Abdelfattah et al., arXiv 2101.08134.
    """
    with _copied(net, batch_statistics=True) as net:
        loss = F.cross_entropy(net(images), labels)
        return sum((weight * gradient).abs().sum().item() for weight, gradient in _gradients(net, loss))


def zen_score(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the Zen-score, how much features change with the input (Lin et al. 2021, arXiv 2102.01063).

    It is the logarithm of the mean norm of ``f(x + a e) - f(x)``, x and e being standard normal images and a = 0.01,
    plus, for each batch normalisation, the logarithm of the root of the mean variance that it divides by. The weights
    are drawn anew from the standard normal distribution: neither they nor the pixels of ``images`` matter. f is the
    network up to its head, or all of it where it has no ``head``. The mean is over draws of the weights and as many
    images as are given, always the same draws; residual connections stay as they are.
    """
    generator = torch.Generator().manual_seed(0)
    features: list[Tensor] = []

    def normal(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=generator).to(images)

    total = 0.0
    with _copied(net) as net, torch.no_grad():
        norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        head = getattr(net, "head", None)
        if isinstance(head, nn.Module):
            head.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
        else:
            net.register_forward_hook(lambda module, inputs, output: features.append(output))
        for _ in range(_ZEN_DRAWS):
            for parameter in net.parameters():
                if parameter.ndim > 1:
                    parameter.copy_(normal(parameter.shape))
            for norm in norms:
                norm.reset_parameters()
                norm.momentum = 1.0  # the statistics are those of the last batch
            x = normal(images.shape)
            features.clear()
            for seen in (x, x, x + _ZEN_ALPHA * normal(images.shape)):
                for norm in norms:
                    norm.train(not features)  # the first pass takes the statistics, and both others divide by them
                net(seen)
            difference = (features[2] - features[1]).double().flatten(1).norm(dim=1).mean()
            # A module of the head has no part in the features.
            kept = [norm for norm in norms if norm not in _within(head)]
            scales = [_variance(norm).mean().double().sqrt().log() for norm in kept]
            total += (difference.log() + sum(scales)).item()
    return total / _ZEN_DRAWS


def macs(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the multiply-adds of one image: the baseline that a proxy has to beat."""
    return float(count_macs(net, tuple(images.shape[1:])))


def params(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the number of parameters: the other baseline."""
    return float(count_params(net))


#: All proxies by name.
PROXIES: Mapping[str, Proxy] = MappingProxyType(
    {
        "grad_norm": grad_norm,
        "jacob_cov": jacob_cov,
        "macs": macs,
        "naswot": naswot,
        "params": params,
        "snip": snip,
        "synflow": synflow,
        "zen_score": zen_score,
    }
)


def check_proxies(names: object) -> tuple[str, ...]:
    """Return names of proxies as a tuple.

    Raises:
        ValueError: It is no list, or empty, or a name is unknown or there twice.
    """
    if not isinstance(names, list | tuple) or not names:
        raise ValueError(f"{names!r}, expected a list of proxies, some of {', '.join(PROXIES)}")
    for name in names:
        if name not in PROXIES:
            raise ValueError(f"unknown proxy {name!r}{did_you_mean(name, PROXIES)} (known: {', '.join(PROXIES)})")
    if len(set(names)) != len(names):
        raise ValueError(f"a proxy is named twice in {list(names)}")
    return tuple(names)


def proxy_scores(net: nn.Module, images: Tensor, labels: Tensor, names: tuple[str, ...]) -> dict[str, float]:
    """Score a network.

    Args:
        net: Takes ``images`` and gives logits ``(N, classes)``; it stays as it is.
        images: Normalised images, float32, shape ``(N, C, H, W)``, on the network's device.
        labels: Their classes, int64, shape ``(N,)``.
        names: Some of :data:`PROXIES`.

    Raises:
        ValueError: A name is unknown, or a score is no finite number.
    """
    scores = {}
    for name in check_proxies(names):
        scores[name] = PROXIES[name](net, images, labels)
        if not math.isfinite(scores[name]):
            raise ValueError(f"proxy {name} gives {scores[name]} for this network: it says nothing about it")
    return scores


@contextmanager
def _copied(net: nn.Module, *, batch_statistics: bool = False) -> Iterator[nn.Module]:
    """Give a copy of a network in evaluation mode, with gradients for all of it, on the plain PyTorch ops.

    Args:
        net: The network.
        batch_statistics: Whether its batch normalisations use the statistics of the batch all the same.
    """
    duplicate = copy.deepcopy(net).eval().requires_grad_()
    for module in duplicate.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(batch_statistics)
    with kernels.disabled(), torch.enable_grad():
        yield duplicate


def _gradients(net: nn.Module, value: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the weights with their gradients; those that do not matter have a gradient of zero."""
    weights = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    gradients = torch.autograd.grad(value, weights, materialize_grads=True)
    yield from zip(weights, gradients, strict=True)


def _within(head: object) -> set[nn.Module]:
    return set(head.modules()) if isinstance(head, nn.Module) else set()


def _variance(norm: nn.modules.batchnorm._BatchNorm) -> Tensor:
    if norm.running_var is None:
        raise ValueError("a batch normalisation keeps no statistics: the Zen-score needs its variances")
    return norm.running_var + norm.eps


def _identity(x: Tensor) -> Tensor:
    return x
