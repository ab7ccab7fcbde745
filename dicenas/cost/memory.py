"""Peak memory of a network's activations."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from dicenas.architecture import Architecture
from dicenas.cost.device import resolve_device
from dicenas.nets import build

__all__ = ["network_peak_memory_mb", "peak_memory_mb"]

_MB = 10**6


def network_peak_memory_mb(
    architecture: Architecture,
    *,
    device: str | torch.device = "cpu",
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
) -> float:
    """Return :func:`peak_memory_mb` of the network of an architecture at its native size.

    Args:
        architecture: The network; for the CPU it is built on the meta device.
        device: Where the network runs.
        batch: Images in the pass.
        dtype: Type of weights and activations.

    Raises:
        ValueError: The device is not there.
    """
    target = resolve_device(device)
    with torch.device("meta" if target.type == "cpu" else target):
        network = build(architecture)
    in_shape = (architecture.in_channels, *architecture.image_size)
    return peak_memory_mb(network, in_shape, device=target, batch=batch, dtype=dtype)


def peak_memory_mb(
    module: nn.Module,
    input_size: tuple[int, ...],
    *,
    device: str | torch.device = "cpu",
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
) -> float:
    """Return the largest memory that activations take at once in an eager inference pass, in megabytes (10^6 bytes).

    The input counts, the weights do not. On the CPU it is computed from the sizes of the tensors alive, on the meta
    device and without running the network; on CUDA it is the allocator's peak, which knows workspaces too.

    Args:
        module: Any module; it is not changed.
        input_size: Shape of one input without the batch, such as ``(3, 224, 224)``.
        device: Where the network runs.
        batch: Images in the pass.
        dtype: Type of weights and activations.

    Raises:
        ValueError: The device is not there.
    """
    target = resolve_device(device)
    computed = target.type == "cpu"
    twin = copy.deepcopy(module).eval().to("meta" if computed else target, dtype)
    # In inference mode a dispatch mode sees max_pool2d whole, without the indices that it allocates.
    with torch.no_grad():
        if computed:
            with _LiveStorages() as storages:
                twin(torch.empty(batch, *input_size, device="meta", dtype=dtype))
            return storages.peak / _MB
        # A first pass makes what libraries keep, such as the workspace of cuBLAS: it belongs to no network.
        twin(torch.empty(batch, *input_size, device=target, dtype=dtype))
        torch.cuda.synchronize(target)
        torch.cuda.reset_peak_memory_stats(target)
        before = torch.cuda.memory_allocated(target)
        twin(torch.empty(batch, *input_size, device=target, dtype=dtype))
        torch.cuda.synchronize(target)
        return (torch.cuda.max_memory_allocated(target) - before) / _MB


class _LiveStorages(TorchDispatchMode):
    """Sums the sizes of the storages that operators make, from when they are made until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # Inputs that were there before, weights among them, are known and count nothing.
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self._known[leaf.untyped_storage()] = None
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:  # a view, or an operation in place
            return
        self._known[storage] = None
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, size)

    def _remove(self, size: int) -> None:
        self.live -= size
