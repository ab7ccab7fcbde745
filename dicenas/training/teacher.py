"""Teachers for distillation: networks of timm and torchvision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dicenas.evaluation.data import IMAGENET_MEAN, IMAGENET_STD
from dicenas.nets.edgenets import read_state_dict

__all__ = ["Teacher", "distillation_loss", "load_teacher"]


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network, and what it takes.

    Attributes:
        net: Gives logits ``(N, num_classes)``.
        mean: Mean of each channel, 0 to 1, that its images are normalised with.
        std: Standard deviation of each channel.
    """

    net: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return logits.

        Args:
            images: On the scale of 0 to 1, shape ``(N, 3, H, W)``.
        """
        mean, std = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (self.mean, self.std))
        logits: Tensor = self.net((images - mean) / std)
        return logits


def load_teacher(name: str, weights: Path | None, num_classes: int, device: torch.device) -> Teacher:
    """Load a teacher.

    Args:
        name: ``timm:NAME`` or ``torchvision:NAME``.
        weights: Its weights, a file of ``torch.save`` or ``.safetensors``; None takes the published ones, which the
            library downloads.
        num_classes: Classes of the dataset.
        device: Where it runs.

    Raises:
        ValueError: There is no such network, it has other classes, or the file does not hold its weights.
    """
    library, _, model = name.partition(":")
    if library not in ("timm", "torchvision") or not model:
        raise ValueError(f"teacher: {name!r}, expected timm:NAME or torchvision:NAME, such as timm:resnet50")
    published = weights is None
    # Published weights come with their own classifier.
    options: dict[str, Any] = {} if published else {"num_classes": num_classes}
    config: dict[str, Any] = {}
    try:
        if library == "timm":
            import timm

            net: nn.Module = timm.create_model(model, pretrained=published, **options)
            config = vars(net)["pretrained_cfg"]
        else:
            import torchvision.models

            net = torchvision.models.get_model(model, weights="DEFAULT" if published else None, **options)
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(f"teacher: {name}: {error}") from error
    if weights is not None:
        try:
            net.load_state_dict(read_state_dict(weights))
        except RuntimeError as error:
            raise ValueError(f"teacher: {weights} does not hold the weights of {name}: {error}") from error
    net.requires_grad_(False).eval().to(device).to(memory_format=torch.channels_last)
    teacher = Teacher(net, tuple(config.get("mean", IMAGENET_MEAN)), tuple(config.get("std", IMAGENET_STD)))
    given = teacher(torch.zeros(1, 3, 64, 64, device=device)).shape
    if given != (1, num_classes):
        raise ValueError(
            f"teacher: {name} tells {given[-1]} classes apart, the dataset has {num_classes}; it should be trained on "
            "the same classes (give its weights)"
        )
    return teacher


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return how far probabilities are from the teacher's (Hinton et al., arXiv 1503.02531).

    Args:
        logits: Shape ``(N, num_classes)``.
        teacher_logits: The same shape.
        temperature: Both are divided by it; the loss is multiplied by its square, so that gradients keep their size.
    """
    expected = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    given = F.log_softmax(logits.float() / temperature, dim=1)
    return F.kl_div(given, expected, reduction="batchmean", log_target=True) * temperature**2
