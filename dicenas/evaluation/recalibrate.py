"""Running statistics of normalisations, taken anew for weights that were trained elsewhere."""

from __future__ import annotations

import torch
from torch import nn

from dicenas.evaluation.data import Data
from dicenas.evaluation.devices import checked_device, mixed_precision, placed

__all__ = ["recalibrate"]


def recalibrate(
    net: nn.Module,
    data: Data,
    *,
    batches: int = 10,
    batch: int = 100,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> None:
    """Take the running statistics of a network's batch normalisations anew, as plain averages over training images.

    A network cut from a supernet needs it: the supernet's weights serve many networks, each of which has statistics of
    its own. So does a network whose weights were changed or joined in other ways. Weights stay as they are, and so do
    statistics where there is no batch normalisation.

    Args:
        net: Takes float32 images ``(N, 3, H, W)``. It is left on ``device``, in evaluation mode.
        data: Where the images come from; they are not augmented, as those that the network is to see.
        batches: Number of batches, at most what the training images fill.
        batch: Images in a batch.
        seed: Fixes which images, of all classes.
        device: Where to run.

    Raises:
        ValueError: ``batches`` is below 1, ``batch`` below 2, or the device is not there.
    """
    if batches < 1 or batch < 2:
        raise ValueError(f"batches {batches} and batch {batch} should be at least 1 and 2")
    target = checked_device(device)
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats]
    batch = min(batch, len(data.train))
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    order = order[: min(batches, len(order) // batch) * batch]
    momenta = [norm.momentum for norm in norms]
    net.eval()  # dropout, and whatever else behaves otherwise in training, behaves as it will
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
        norm.train()
    try:
        with placed(net, target), torch.no_grad(), mixed_precision(target):
            for images, _ in data.train.batches(order, batch):
                images = data.normalize(images.to(target))
                net(images.contiguous(memory_format=torch.channels_last))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        net.eval()
