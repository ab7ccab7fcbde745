"""Compares an exported network, loaded in a fresh process, with the network that it was made from."""

from __future__ import annotations

import copy
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dicenas.export import check_process
from dicenas.export.formats import DTYPES, TOLERANCES
from dicenas.nets import Network
from dicenas.ops import DimConv, kernels

__all__ = [
    "TOLERANCE",
    "Check",
    "ExportVerificationError",
    "Verification",
    "takes_any_size",
    "verify",
]

#: Largest difference from the network's logits, relative to the largest of them, in float32.
TOLERANCE = TOLERANCES["float32"]

# How many times PyTorch's own rounding error another runtime's logits may differ: each is off by its own.
_ROUNDINGS = 4
# How often each runtime is timed, where that does not take too long.
_TIMED_ROUNDS = 40
# Runtimes of formats that are source: they take images of any size, whatever the network.
_ANY_SIZE = frozenset({"torch", "dicenas", "timm"})


class ExportVerificationError(RuntimeError):
    """An exported network does not run, or does not compute what the network computes that it was made from."""


@dataclass(frozen=True)
class Check:
    """One comparison of an exported network with the network that it was made from.

    Attributes:
        runtime: ``"torch"``: ``model.py`` with torch alone; ``"dicenas"``: the same with the kernels of dicenas;
            ``"torch.export"``, ``"torchscript"``, ``"onnxruntime"``, ``"timm"``: the file of that format.
        input_shape: Shape of the input, ``(N, C, H, W)``.
        largest_logit: Largest absolute value of the network's logits.
        difference: Largest absolute difference of the logits.
        tolerance: What is allowed of it, relative to the largest logit.
    """

    runtime: str
    input_shape: tuple[int, ...]
    largest_logit: float
    difference: float
    tolerance: float = TOLERANCE

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference <= self.tolerance * self.largest_logit  # not so for NaN

    @property
    def relative_difference(self) -> float:
        """The difference relative to the largest logit."""
        return self.difference / self.largest_logit if self.difference else 0.0

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.input_shape))
        return (
            f"{'ok  ' if self.passed else 'FAIL'} {self.runtime:12} input {shape}: difference {self.difference:.3g} "
            f"of logits up to {self.largest_logit:.3g} ({self.relative_difference:.1e})"
        )


@dataclass(frozen=True)
class Verification:
    """What was found of an exported network in a fresh process.

    Attributes:
        checks: The comparisons, all passed.
        latency_ms: Median time of each runtime for one image, on one thread of the CPU; the runtimes took turns.
        image_size: ``(H, W)`` of that image.
    """

    checks: tuple[Check, ...] = ()
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    image_size: tuple[int, int] = (0, 0)


def takes_any_size(network: nn.Module) -> bool:
    """Whether all formats of a network take images of any size.

    Dimension-wise convolution resizes maps that have not its native size, and a program has the resizing for one size:
    what depends on a size in Python is settled when a program is made. Of ops of other packages nothing is known.
    """
    modules = list(network.modules())
    known = all(type(module).__module__.partition(".")[0] in ("dicenas", "torch") for module in modules)
    return known and not any(isinstance(module, DimConv) for module in modules)


def verify(
    network: Network,
    folder: Path,
    formats: Sequence[str],
    weights: Mapping[str, Tensor],
    *,
    image_size: tuple[int, int],
    dtype: str = "float32",
    tolerance: float = TOLERANCE,
) -> Verification:
    """Run an exported network in a fresh process and compare its logits with the trained network's.

    The process has no dicenas and no NNI; networks with DiCE units run once more with dicenas, for its kernels.
    The weights of ``model.py`` are compared exactly, since the logits of a badly trained network may hardly depend on
    some of them; logits for fixed inputs: batches of one and of three images, and an image of another size where the
    format takes one. What runs on kernels is compared with the network on kernels.

    Args:
        network: The network as it was trained, in training or evaluation mode, on any device; it is not changed.
        folder: Holds ``model.py``, ``model.safetensors`` and the files of the other formats.
        formats: The formats to load.
        weights: What ``model.safetensors`` should hold.
        image_size: ``(H, W)`` of the images.
        dtype: Number type of the exported network.
        tolerance: Largest difference of the logits, relative to the largest of them; more is allowed where PyTorch's
            own rounding makes more.

    Raises:
        ExportVerificationError: The exported network does not run, or its weights or logits differ; the message
            shows how.
    """
    reference = copy.deepcopy(network).cpu().float().eval()
    any_size = takes_any_size(network)
    names = ["py", *(name for name in check_process.RUNTIMES if name in formats and name != "py")]
    has_kernels = any(isinstance(module, DimConv) for module in network.modules())
    runtimes = [check_process.RUNTIMES[name][0] for name in names] + (["dicenas"] if has_kernels else [])
    inputs = {
        runtime: _inputs(network.architecture.in_channels, image_size, any_size or runtime in _ANY_SIZE, DTYPES[dtype])
        for runtime in runtimes
    }
    found = _run(folder, names, inputs, Path(__file__).parents[2] if has_kernels else None)
    _compare_weights(weights, found["state_dict"])
    expected = _expected(reference, inputs)
    allowed = max(tolerance, _ROUNDINGS * _rounding(reference, inputs["torch"], expected["torch"]))
    checks = tuple(
        Check(runtime, tuple(x.shape), float(want.abs().max()), float((got.float() - want).abs().max()), allowed)
        for runtime, logits in found["logits"].items()
        for x, want, got in zip(inputs[runtime], expected[runtime], logits, strict=True)
    )
    if not all(check.passed for check in checks):
        raise ExportVerificationError(
            f"the exported network differs from the trained one by more than {allowed:.1e} of the largest logit:\n"
            + "\n".join(f"  {check}" for check in checks)
        )
    latency_ms = {runtime: statistics.median(times) for runtime, times in found["times_ms"].items()}
    return Verification(checks, latency_ms, image_size)


def _inputs(channels: int, image_size: tuple[int, int], other_size: bool, dtype: torch.dtype) -> list[Tensor]:
    height, width = image_size
    shapes = [(1, channels, height, width), (3, channels, height, width)]
    if other_size:
        shapes.append((1, channels, height - height // 8, width - width // 8))
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def _expected(network: Network, inputs: Mapping[str, Sequence[Tensor]]) -> dict[str, list[Tensor]]:
    """Return the network's logits for each runtime.

    Kernels and plain PyTorch round differently, and a network may magnify that beyond the tolerance without either
    being wrong: what runs on kernels is compared with the network on kernels, whose own tests hold them to plain
    PyTorch.
    """
    longest = max(inputs.values(), key=len)
    with torch.no_grad():
        with kernels.disabled():
            plain = [network(x.float()) for x in longest]
        fast = [network(x.float()) for x in inputs.get("dicenas", ())]
    return {runtime: fast if runtime == "dicenas" else plain[: len(xs)] for runtime, xs in inputs.items()}


def _rounding(network: Network, inputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return what rounding alone does to the logits, relative to the largest: most over the inputs.

    Another runtime adds in another order. A network that magnifies what float32 loses by it has logits that no runtime
    can meet: PyTorch's own are this far from those of float64. How far they are for one image is chance, how far they
    may be is the network's.
    """
    exact = copy.deepcopy(network).double()
    with torch.no_grad(), kernels.disabled():
        error = max(float((exact(x.double()) - logits).abs().max()) for x, logits in zip(inputs, expected, strict=True))
    largest = max(float(logits.abs().max()) for logits in expected)
    return error / largest if largest else 0.0


def _compare_weights(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    if list(expected) != list(found):
        raise ExportVerificationError("the state_dict keys of the exported network differ from the trained one's")
    if different := [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])]:
        raise ExportVerificationError(f"weights differ between the exported and the trained network: {different}")


def _run(
    folder: Path, formats: Sequence[str], inputs: Mapping[str, Sequence[Tensor]], root: Path | None
) -> dict[str, Any]:
    """Return what the fresh process writes: logits and times for each runtime, and the weights."""
    with tempfile.TemporaryDirectory(prefix="dicenas-export-") as name:
        scratch = Path(name)
        torch.save(dict(inputs), scratch / "inputs.pt")
        # -I: neither the working folder nor PYTHONPATH nor the user's packages; -B: no __pycache__ beside model.py.
        arguments = [folder.resolve(), scratch / "inputs.pt", scratch / "outputs.pt", ",".join(formats), _TIMED_ROUNDS]
        arguments += [] if root is None else [root]
        command = [sys.executable, "-I", "-B", check_process.__file__, *map(str, arguments)]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ExportVerificationError(f"the exported network does not run in a fresh process:\n{done.stderr}")
        found: dict[str, Any] = torch.load(scratch / "outputs.pt", weights_only=True)
    return found
