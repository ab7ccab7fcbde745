"""Automatic mixed precision: what autocast loses, and that the kernels lose no more than plain operators."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from tests.compatibility.compare import (
    Results,
    assert_near,
    distances,
    inference,
    kernels_used,
    modes,
    results,
    training_step,
)
from tests.compatibility.subjects import Subject

#: What lower precision may take of the output, and of all gradients together.
LOST = {torch.bfloat16: (0.02, 0.25), torch.float16: (0.005, 0.1)}
#: Losses add up over the layers of a network in training: the kernels are held to those of plain operators there.
AS_MUCH = 1.1


def runs_under_autocast(subject: Subject, device: str, lost: Mapping[torch.dtype, tuple[float, float]]) -> None:
    """Compare with float32 in training and inference, with the kernels and without; parameters stay in float32."""
    for dtype, limits in lost.items():
        for training in modes(subject):
            step = training_step if training else inference

            def run(used: bool, step=step, dtype=dtype) -> Results:  # type: ignore[no-untyped-def]
                with kernels_used(used, device), torch.autocast(device, dtype):
                    return step(subject.module().to(device), subject.input().to(device))

            expected, plain = results(subject, training, device), run(False)
            if subject.is_network and training:
                limits = tuple(AS_MUCH * each for each in distances(plain, expected))  # type: ignore[assignment]
            for found in (plain, run(True)):
                assert_near(found, expected, *limits)
                assert all(gradient.dtype == torch.float32 for gradient in found.gradients.values())
