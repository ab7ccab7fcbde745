"""How right a network is: accuracy, the five first guesses, and what is taken for what."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Scores"]

_GUESSES = 5


@dataclass
class Scores:
    """Counts over images, that can be added up over batches and processes.

    Attributes:
        confusion: Number of images of each class (row) that were taken for each class (column), int64, shape
            ``(num_classes, num_classes)``.
        sums: Sum of the cross-entropy, and images whose class is among the five first guesses, float64.
    """

    confusion: Tensor
    sums: Tensor

    @classmethod
    def empty(cls, num_classes: int) -> Scores:
        """Return the counts before any image."""
        return cls(torch.zeros(num_classes, num_classes, dtype=torch.int64), torch.zeros(2, dtype=torch.float64))

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Args:
            logits: Shape ``(N, num_classes)``.
            labels: Class indices, shape ``(N,)``.
        """
        num_classes = len(self.confusion)
        guesses = logits.topk(min(_GUESSES, num_classes), dim=1).indices
        pairs = torch.bincount(labels * num_classes + guesses[:, 0], minlength=num_classes**2)
        self.confusion += pairs.view(num_classes, num_classes).cpu()
        self.sums[0] += F.cross_entropy(logits.float(), labels, reduction="sum").double().cpu()
        self.sums[1] += (guesses == labels[:, None]).sum().cpu()

    def metrics(self) -> dict[str, float]:
        """Return ``accuracy`` (top-1), ``top5_accuracy`` and ``loss`` (mean cross-entropy)."""
        count = int(self.confusion.sum())
        return {
            "accuracy": int(self.confusion.trace()) / count,
            "top5_accuracy": self.sums[1].item() / count,
            "loss": self.sums[0].item() / count,
        }
