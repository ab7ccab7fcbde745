"""The optimizer of a recipe, its learning rate, and gradient checkpointing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dicenas.evaluation import devices
from dicenas.evaluation.trainer import decay_groups
from dicenas.nets import Network
from dicenas.training.recipes import Recipe

__all__ = ["CheckpointedNetwork", "amp_dtype", "make_optimizer", "make_schedule"]


def make_optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Return the optimizer of a recipe; weight decay is for weights of two dimensions and more."""
    groups = decay_groups(net, recipe.weight_decay)
    return torch.optim.SGD(groups, recipe.learning_rate, recipe.momentum, nesterov=recipe.nesterov, fused=True)


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> Any:
    """Return timm's schedule of a recipe; ``step_update(n)`` sets the learning rate of step ``n``, whatever was before.

    Args:
        optimizer: Its groups are given the learning rate.
        recipe: Says how it rises and falls.
        steps_per_epoch: Optimizer steps of an epoch.
    """
    from timm.scheduler.cosine_lr import CosineLRScheduler
    from timm.scheduler.multistep_lr import MultiStepLRScheduler

    steps = recipe.epochs * steps_per_epoch
    # Step 0 has the first share of the rise, not a learning rate of zero.
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    rise: dict[str, Any] = {
        "warmup_t": warmup,
        "warmup_lr_init": recipe.learning_rate / (warmup + 1),
        "t_in_epochs": False,
    }
    if recipe.schedule == "cosine":
        return CosineLRScheduler(optimizer, t_initial=max(1, steps - warmup), warmup_prefix=True, **rise)
    # timm's milestones stand at the end of the step before.
    milestones = [round(share * steps) + 1 for share in recipe.decay_at]
    return MultiStepLRScheduler(
        optimizer, decay_t=milestones, decay_rate=recipe.decay_factor, warmup_prefix=False, **rise
    )


def amp_dtype(recipe: Recipe, device: torch.device) -> torch.dtype | None:
    """Return the number type of convolutions beside float32, None where there is none."""
    if recipe.amp in ("bfloat16", "float16"):
        return getattr(torch, recipe.amp)
    return None if recipe.amp == "off" else devices.amp_dtype(device)


class CheckpointedNetwork(nn.Module):
    """A network that keeps the inputs of its blocks for the backward pass, and computes what is inside them again.

    Results are those of the network itself: running statistics are updated once, and dropout is the same both times.

    Args:
        net: The network; it shares its weights with this one.
    """

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        x = self.net.stem(x)
        for stage in self.net.stages:
            assert isinstance(stage, nn.Sequential)
            for block in stage:
                x = checkpoint(
                    block,
                    x,
                    use_reentrant=False,
                    context_fn=partial(_contexts, block),
                )
        logits: Tensor = self.net.head(x)
        return logits


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what a block runs in the first time, and what it is computed again in."""
    return contextlib.nullcontext(), _frozen_statistics(block)


@contextlib.contextmanager
def _frozen_statistics(block: nn.Module) -> Iterator[None]:
    """Keep the running statistics as they are while a block is computed again."""
    norms = [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    counts = [None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            if count is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)
