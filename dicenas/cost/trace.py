"""Which modules a network calls on an image, with which shapes, and whose output each of them takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from dicenas.ops import Cost, kernels

__all__ = ["NORMS", "ModuleCall", "Trace", "trace_modules"]

#: Normalisations; what happens inside one is no call of its own, even where it activates (timm's).
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module in a forward pass.

    Attributes:
        index: Place among all calls, in the order in which they began.
        name: Name of the module in the network.
        module: The module.
        in_shape: Shape of its first input; empty where that is no tensor.
        out_shape: Shape of its output; empty where that is no tensor.
        producer: Index of the call whose output, as it was or seen through a view, is the first input. ``None`` for
            the image and for what code outside of modules computed.
        inside: Indices of the calls within which this one happened, the outermost first.
        makes_output: Whether the output is this module's own work; a container hands on what a module inside made.
    """

    index: int
    name: str
    module: nn.Module
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    producer: int | None
    inside: tuple[int, ...]
    makes_output: bool


@dataclass(frozen=True)
class Trace:
    """A forward pass.

    Attributes:
        calls: The calls of modules in the order in which they began.
        output_shapes: Shapes of the network's outputs.
        cost: Multiply-adds for the batch, and parameters.
        read_elsewhere: Indices of calls whose output something else takes than the modules whose first input it is:
            code outside of modules, a module's further input, or who called the network.
    """

    calls: tuple[ModuleCall, ...]
    output_shapes: tuple[tuple[int, ...], ...]
    cost: Cost
    read_elsewhere: frozenset[int] = frozenset()

    def consumers(self, call: ModuleCall) -> list[ModuleCall]:
        """Return the calls whose first input is the output of ``call``."""
        return [other for other in self.calls if other.producer == call.index]

    def times_called(self) -> Counter[nn.Module]:
        """Return how often each module is called."""
        return Counter(call.module for call in self.calls)


class _Recorder:
    """Watches the calls of modules; tensors are recognised by their memory, which is kept alive for that."""

    def __init__(self) -> None:
        self.calls: dict[int, ModuleCall] = {}
        self._begun = 0
        self._open: list[tuple[int, tuple[int, ...], int | None]] = []
        self._makers: dict[int, tuple[int, int]] = {}  # memory -> call that wrote it, version of the tensor then
        self._alive: list[Tensor] = []
        self.read_elsewhere: set[int] = set()

    def read(self, inputs: Iterable[Any], results: Iterable[Any]) -> None:
        """Take note of what an operator reads; views, and what writes in place, hand the memory on."""
        handed_on = {_memory(tensor) for tensor in results if isinstance(tensor, Tensor)}
        known = {producer for _, _, producer in self._open}
        for tensor in inputs:
            if isinstance(tensor, Tensor) and _memory(tensor) not in handed_on:
                maker, version = self._makers.get(_memory(tensor), (None, -1))
                if maker is not None and version == tensor._version and maker not in known:
                    self.read_elsewhere.add(maker)

    def before(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        tensor = _first_tensor(inputs)
        producer = None
        if tensor is not None:
            maker, version = self._makers.get(_memory(tensor), (None, -1))
            # Written to since then, by code outside of modules such as F.relu_: not that call's output any more.
            producer = maker if version == tensor._version else None
        shape = () if tensor is None else tuple(tensor.shape)
        self._open.append((self._begun, shape, producer))
        self._begun += 1

    def after(self, name: str, module: nn.Module, output: Any) -> None:
        index, in_shape, producer = self._open.pop()
        tensor = _first_tensor((output,))
        own = False
        if tensor is not None:
            self._alive.append(tensor)
            maker, _ = self._makers.get(_memory(tensor), (-1, -1))
            own = maker <= index  # else a module inside made it
            if own:
                self._makers[_memory(tensor)] = (index, tensor._version)
        out_shape = () if tensor is None else tuple(tensor.shape)
        inside = tuple(begun for begun, _, _ in self._open)
        self.calls[index] = ModuleCall(index, name, module, in_shape, out_shape, producer, inside, own)


class _Reads(TorchDispatchMode):
    """Tells a recorder what each operator reads."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorder = recorder

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._recorder.read(tree_leaves((args, kwargs)), tree_leaves(result))
        return result


def trace_modules(model: nn.Module, image: Tensor) -> Trace:
    """Run a network on an image and record the calls of its modules.

    Args:
        model: The network; it runs in evaluation mode and keeps its state.
        image: The input ``(N, C, H, W)``.
    """
    recorder = _Recorder()
    with ExitStack() as stack:
        stack.enter_context(_evaluation_mode(model))
        for name, module in _watched(model, "", set()):
            stack.callback(module.register_forward_pre_hook(recorder.before).remove)
            stack.callback(module.register_forward_hook(_after(recorder, name)).remove)
        # Of the DiCE unit's own operators the counter knows nothing: it runs in plain PyTorch.
        stack.enter_context(kernels.disabled())
        stack.enter_context(torch.no_grad())
        stack.enter_context(_Reads(recorder))
        counter = stack.enter_context(FlopCounterMode(display=False))
        output = model(image)
    params = sum(parameter.numel() for parameter in model.parameters())
    calls = tuple(recorder.calls[index] for index in sorted(recorder.calls))
    recorder.read(tree_leaves(output), ())
    cost = Cost(counter.get_total_flops() // 2, params)
    return Trace(calls, tuple(_shapes(output)), cost, frozenset(recorder.read_elsewhere))


def _watched(module: nn.Module, name: str, seen: set[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    if module in seen:
        return
    seen.add(module)
    yield name, module
    if not isinstance(module, NORMS):
        for child_name, child in module.named_children():
            yield from _watched(child, f"{name}.{child_name}" if name else child_name, seen)


def _after(recorder: _Recorder, name: str) -> Callable[[nn.Module, Any, Any], None]:
    return lambda module, inputs, output: recorder.after(name, module, output)


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _first_tensor(values: Any) -> Tensor | None:
    return next((value for value in values if isinstance(value, Tensor)), None)


def _shapes(output: Any) -> Iterator[tuple[int, ...]]:
    if isinstance(output, Tensor):
        yield tuple(output.shape)
    elif isinstance(output, dict):
        for value in output.values():
            yield from _shapes(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _shapes(value)
