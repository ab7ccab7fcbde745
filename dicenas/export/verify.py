"""Compares an exported network, loaded in a fresh process, with the network that it was made from."""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dicenas.export import check_process
from dicenas.nets import Network
from dicenas.ops import DimConv, kernels

__all__ = ["TOLERANCE", "Check", "ExportVerificationError", "verify"]

#: Largest difference from the network's logits, relative to the largest of them (fp32).
TOLERANCE = 1e-5

_Logits = dict[str, list[Tensor]]


class ExportVerificationError(RuntimeError):
    """An exported network does not run, or does not compute what the network computes that it was made from."""


@dataclass(frozen=True)
class Check:
    """One comparison of an exported network with the network that it was made from.

    Attributes:
        runtime: ``"torch"``: torch alone; ``"dicenas"``: torch and the kernels of dicenas.
        input_shape: Shape of the input, ``(N, C, H, W)``.
        largest_logit: Largest absolute value of the network's logits.
        difference: Largest absolute difference of the logits.
    """

    runtime: str
    input_shape: tuple[int, ...]
    largest_logit: float
    difference: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within :data:`TOLERANCE` of the largest logit."""
        return self.difference <= TOLERANCE * self.largest_logit  # not so for NaN

    @property
    def relative_difference(self) -> float:
        """The difference relative to the largest logit."""
        return self.difference / self.largest_logit if self.difference else 0.0

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.input_shape))
        return (
            f"{'ok  ' if self.passed else 'FAIL'} {self.runtime:8} input {shape}: difference {self.difference:.3g} "
            f"of logits up to {self.largest_logit:.3g} ({self.relative_difference:.1e})"
        )


def verify(network: Network, model: Path, weights: Path) -> tuple[Check, ...]:
    """Run ``model.py`` with its weights in a fresh process and compare its logits with the network's.

    The process has no dicenas and no NNI; networks with DiCE units run once more with dicenas, for its kernels.
    Weights are compared exactly, since the logits of a badly trained network may hardly depend on some of them;
    logits for fixed inputs: two batch sizes at the native image size and one image of another size,
    each runtime with the network in the same runtime.

    Args:
        network: The network, in training or evaluation mode, on any device; it is not changed.
        model: Path of ``model.py``.
        weights: Path of the safetensors file.

    Raises:
        ExportVerificationError: The exported network does not run, or its weights or logits differ; the message
            shows how.
    """
    inputs = _inputs(network)
    reference = copy.deepcopy(network).cpu().eval()
    expected = _expected(reference, inputs)
    root = [str(Path(__file__).parents[2])] if any(isinstance(m, DimConv) for m in network.modules()) else []
    outputs, tensors = _run(model, weights, inputs, root)
    _compare_weights(reference.state_dict(), tensors)
    checks = tuple(
        Check(runtime, tuple(x.shape), float(want.abs().max()), float((got - want).abs().max()))
        for runtime, logits in outputs.items()
        for x, want, got in zip(inputs, expected[runtime], logits, strict=True)
    )
    if not all(check.passed for check in checks):
        raise ExportVerificationError(
            f"the exported network differs from the trained one by more than {TOLERANCE:g} of the largest logit:\n"
            + "\n".join(f"  {check}" for check in checks)
        )
    return checks


def _expected(network: Network, inputs: list[Tensor]) -> _Logits:
    """Return the network's logits for each runtime.

    Each runtime is compared with itself: kernels and plain PyTorch round differently, and a network may magnify that
    beyond the tolerance without either being wrong. The kernels' own tests hold them to plain PyTorch.
    """
    with torch.no_grad():
        with kernels.disabled():
            plain = [network(x) for x in inputs]
        return {"torch": plain, "dicenas": [network(x) for x in inputs]}


def _compare_weights(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    if list(expected) != list(found):
        raise ExportVerificationError("the state_dict keys of the exported network differ from the trained one's")
    if different := [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])]:
        raise ExportVerificationError(f"weights differ between the exported and the trained network: {different}")


def _inputs(network: Network) -> list[Tensor]:
    architecture = network.architecture
    channels, (height, width) = architecture.in_channels, architecture.image_size
    other_size = (height - height // 8, width - width // 8)
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, channels, height, width), (3, channels, height, width), (1, channels, *other_size)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def _run(model: Path, weights: Path, inputs: list[Tensor], root: Sequence[str]) -> tuple[_Logits, dict[str, Tensor]]:
    """Return the logits of the exported network for each runtime, and its weights, from a fresh process."""
    with tempfile.TemporaryDirectory(prefix="dicenas-export-") as name:
        folder = Path(name)
        torch.save(inputs, folder / "inputs.pt")
        # -I: neither the working folder nor PYTHONPATH nor the user's packages; -B: no __pycache__ beside model.py.
        files = [model.resolve(), weights.resolve(), folder / "inputs.pt", folder / "outputs.pt"]
        command = [sys.executable, "-I", "-B", check_process.__file__, *map(str, files), *root]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ExportVerificationError(f"the exported network does not run in a fresh process:\n{done.stderr}")
        outputs = torch.load(folder / "outputs.pt", weights_only=True)
    return outputs["logits"], outputs["state_dict"]
