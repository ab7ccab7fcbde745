"""Records with which arguments the modules of a network were constructed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dicenas.nets import Network, build

__all__ = ["ConstructorCalls", "rebuild"]

#: The arguments of each module's constructor by name, defaults included.
ConstructorCalls = dict[nn.Module, dict[str, Any]]


def rebuild(network: Network) -> tuple[Network, ConstructorCalls]:
    """Build a network once more, without weights, and return it with the constructor calls of its modules.

    Raises:
        ValueError: The network is no longer the one that its architecture describes.
    """
    with _recording({type(module) for module in network.modules()}) as calls, torch.device("meta"):
        rebuilt = build(network.architecture)
    expected = {name: tensor.shape for name, tensor in rebuilt.state_dict().items()}
    given = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if different := sorted(name for name in {*expected, *given} if expected.get(name) != given.get(name)):
        shown = ", ".join(different[:5]) + (", ..." if len(different) > 5 else "")
        raise ValueError(f"the network was changed after it was built from its architecture; tensors differ: {shown}")
    _take_dropout(network, rebuilt, calls)
    return rebuilt, calls


def _take_dropout(network: Network, rebuilt: Network, calls: ConstructorCalls) -> None:
    """Dropout may be changed on a built network, as :func:`dicenas.nets.dicenet` does; the calls follow."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Dropout):
            calls[rebuilt.get_submodule(name)]["p"] = module.p
            parent = calls[rebuilt.get_submodule(name.rpartition(".")[0])]
            if "dropout" in parent:
                parent["dropout"] = module.p


@contextmanager
def _recording(classes: Iterable[type[nn.Module]]) -> Iterator[ConstructorCalls]:
    """Record the constructor calls of these classes while the context lasts."""
    calls: ConstructorCalls = {}
    own = {cls: vars(cls).get("__init__") for cls in classes}
    wrapped = {cls: _recording_constructor(cls, calls) for cls in own}
    try:
        for cls, constructor in wrapped.items():
            cls.__init__ = constructor  # type: ignore[method-assign]
        yield calls
    finally:
        for cls, constructor in own.items():
            if constructor is None:
                del cls.__init__
            else:
                cls.__init__ = constructor  # type: ignore[method-assign]


def _recording_constructor(cls: type[nn.Module], calls: ConstructorCalls) -> Any:
    constructor = cls.__init__
    signature = inspect.signature(constructor)

    @functools.wraps(constructor)
    def recording(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        if type(self) is cls:  # and not the constructor of a base
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            given = list(bound.arguments.items())[1:]
            calls[self] = {name: value for name, value in given if not _is_empty_rest(signature, name, value)}
        constructor(self, *args, **kwargs)

    return recording


def _is_empty_rest(signature: inspect.Signature, name: str, value: Any) -> bool:
    kind = signature.parameters[name].kind
    return kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD) and not value
