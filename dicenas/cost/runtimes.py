"""Ways to run a network: with and without native kernels, fused, compiled, in onnxruntime."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dicenas.cost.device import resolve_device
from dicenas.nets import fuse_for_inference
from dicenas.ops import kernels
from dicenas.spelling import did_you_mean

__all__ = ["DTYPES", "MEMORY_FORMATS", "RUNTIMES", "LatencySettings", "as_runtime", "prepare", "using_threads"]

#: Number types by name.
DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
#: Ways to run a network: ``eager`` without native kernels, ``kernels`` with those that are loaded, ``fused`` by
#: :func:`dicenas.fuse_for_inference`, ``compiled`` by ``torch.compile``, ``onnxruntime`` on the CPU.
RUNTIMES = ("eager", "kernels", "fused", "compiled", "onnxruntime")

#: Layouts of four-dimensional tensors by name.
MEMORY_FORMATS: dict[str, torch.memory_format] = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}


@dataclass(frozen=True)
class LatencySettings:
    """Under what a latency is measured; two latencies compare only where these are equal.

    Attributes:
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        batch: Images in the batch.
        dtype: One of :data:`DTYPES`.
        threads: CPU threads; those set in torch where it is None.
        runtime: One of :data:`RUNTIMES`.
        memory_format: One of :data:`MEMORY_FORMATS`.

    Raises:
        ValueError: A device that is not there, or something unknown; the message says what there is.
    """

    device: str = "cpu"
    batch: int = 1
    dtype: str = "float32"
    threads: int | None = None
    runtime: str = "kernels"
    memory_format: str = "contiguous"

    def __post_init__(self) -> None:
        target = resolve_device(self.device)
        known: dict[str, Any]
        for name, known in (
            ("dtype", DTYPES),
            ("runtime", dict.fromkeys(RUNTIMES)),
            ("memory_format", MEMORY_FORMATS),
        ):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}{did_you_mean(value, known)} ({', '.join(known)})")
        if self.batch < 1 or (self.threads is not None and self.threads < 1):
            raise ValueError(f"batch {self.batch} and threads {self.threads} should be at least 1")
        if self.runtime == "onnxruntime":
            if target.type != "cpu" or self.dtype != "float32" or self.memory_format != "contiguous":
                raise ValueError("runtime onnxruntime measures contiguous float32 networks on the cpu")
            if importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnxscript") is None:
                raise ValueError("runtime onnxruntime needs packages: pip install 'dicenas[export]'")


def prepare(module: nn.Module, input_size: tuple[int, ...], settings: LatencySettings) -> tuple[nn.Module, Tensor]:
    """Return a copy of a module in evaluation mode where it is to run, and a random batch for it.

    Args:
        module: Any module that takes one tensor; it is not changed.
        input_size: Shape of one input without the batch, such as ``(3, 224, 224)``.
        settings: Device, batch, dtype and layout.
    """
    device, dtype = resolve_device(settings.device), DTYPES[settings.dtype]
    twin = copy.deepcopy(module).eval().to(device, dtype)
    x = torch.randn(settings.batch, *input_size, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    if x.dim() == 4:
        layout = MEMORY_FORMATS[settings.memory_format]
        twin, x = twin.to(memory_format=layout), x.contiguous(memory_format=layout)
    return twin, x


@contextmanager
def as_runtime(module: nn.Module, runtime: str, x: Tensor) -> Iterator[Callable[[Tensor], Any]]:
    """Yield what runs a module in a runtime.

    Args:
        module: The module, in evaluation mode and on its device.
        runtime: One of :data:`RUNTIMES`.
        x: An input for it.
    """
    if runtime == "eager":
        with kernels.disabled():
            yield module
    elif runtime == "fused":
        yield fuse_for_inference(module)
    elif runtime == "compiled":
        # torch keeps what it compiled by the code of forward(), which all networks share: from the second on it would
        # take sizes that changed for dynamic, and after the eighth run the next one uncompiled.
        torch.compiler.reset()
        yield torch.compile(module)
    elif runtime == "onnxruntime":
        yield _onnxruntime_session(module, x)
    else:
        yield module


def _onnxruntime_session(module: nn.Module, x: Tensor) -> Callable[[Tensor], Any]:
    import onnxruntime

    program = torch.onnx.export(module, (x,), input_names=["x"], dynamo=True, verbose=False)
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda tensor: session.run(None, {"x": tensor.numpy()})


@contextmanager
def using_threads(threads: int | None) -> Iterator[int]:
    """Set the number of CPU threads and yield it; None leaves it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
