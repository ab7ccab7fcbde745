"""What is checked: every registered candidate op, the down-sampling unit of DiCENet, and a whole DiCENet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dicenas import fuse_for_inference
from dicenas.nets import dicenet
from dicenas.ops import StridedDiCE, build_candidate, expand_candidates, list_ops

__all__ = ["SUBJECTS", "Subject"]

#: Channels and input size of the ops: odd sizes, and channels that grouped convolutions can share out.
CHANNELS = 12
SIZE = (9, 7)
HALF = (5, 4)
#: Ops that cannot stride.
KEEP_SHAPE = ("skip", "se")
BATCH = 4


@dataclass(frozen=True)
class Subject:
    """A module to check.

    Attributes:
        build: Makes it, in training mode, with weights of its own.
        shape: Of one input, ``(C, H, W)``.
        trains: Whether it can be trained; a network that is fused for inference cannot.
        is_network: Whether it is a whole network.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    trains: bool = True
    is_network: bool = False

    def module(self) -> nn.Module:
        """The module with the same weights each time, of which none is 0 or 1 as at the start of a training."""
        torch.manual_seed(0)
        return self.build().train(self.trains)

    def input(self, batch: int = BATCH) -> Tensor:
        """An input ``(N, C, H, W)``, the same each time."""
        return torch.randn(batch, *self.shape, generator=torch.Generator().manual_seed(batch))


def _with_statistics(module: nn.Module) -> nn.Module:
    """The module as it is in the middle of a training."""
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.uniform_(each.weight, 0.7, 1.3)
            nn.init.normal_(each.bias, std=0.2)
            assert each.running_mean is not None
            assert each.running_var is not None
            nn.init.normal_(each.running_mean, std=0.2)
            nn.init.uniform_(each.running_var, 0.7, 1.3)
    return module


def _candidate(name: str) -> nn.Module:
    """The op at stride 1 and, where it can, at stride 2 behind it, with other channels."""
    op = build_candidate(name, CHANNELS, CHANNELS, 1, SIZE, "prelu", final_activation=True)
    if name in KEEP_SHAPE:
        return _with_statistics(op)
    strided = build_candidate(name, CHANNELS, 2 * CHANNELS, 2, HALF, "prelu", final_activation=True)
    return _with_statistics(nn.Sequential(op, strided))


def _network() -> nn.Module:
    # Without dropout, which would differ from run to run.
    return _with_statistics(dicenet(0.1, num_classes=10, image_size=64, dropout=0.0))


def _subjects() -> dict[str, Subject]:
    shape = (CHANNELS, *SIZE)
    subjects = {
        name: Subject(lambda name=name: _candidate(name), shape)  # type: ignore[misc]
        for name in expand_candidates(list_ops())
    }
    subjects["StridedDiCE"] = Subject(lambda: _with_statistics(StridedDiCE(CHANNELS, HALF)), shape)
    subjects["dicenet_010"] = Subject(_network, (3, 64, 64), is_network=True)
    subjects["dicenet_010, fused"] = Subject(
        lambda: fuse_for_inference(_network().eval()), (3, 64, 64), trains=False, is_network=True
    )
    return subjects


#: By the name of their row.
SUBJECTS = _subjects()
