"""A network that is built when somebody first looks at it."""

from __future__ import annotations

from typing import Any

import torch

from dicenas.architecture import Architecture
from dicenas.nets import Network, build

__all__ = ["LazyNetwork"]


class LazyNetwork(Network):
    """Becomes the network of an architecture as soon as anything of it is used.

    An evaluation that looks its architecture up in a table need not wait for a network. From its first use on, this
    object is the network that ``dicenas.build(architecture)`` gives under the seed, class and all.

    Args:
        architecture: The architecture.
        seed: Seed of the weights; the random state is as before afterwards.
    """

    def __init__(self, architecture: Architecture, seed: int) -> None:
        # Not that of nn.Module: what it sets comes with the network.
        object.__setattr__(self, "_recipe", (architecture, seed))

    def __getattribute__(self, name: str) -> Any:
        object.__getattribute__(self, "_become")()
        return getattr(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__getattribute__(self, "_become")()
        setattr(self, name, value)

    def _become(self) -> None:
        own = object.__getattribute__(self, "__dict__")
        architecture, seed = own.pop("_recipe")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build(architecture)
        own.update(network.__dict__)
        object.__setattr__(self, "__class__", type(network))
