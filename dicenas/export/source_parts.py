"""The parts of a network's source: definitions of its classes, and what constructs stem, stages and head."""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from dicenas.export.construction import ConstructorCalls, rebuild
from dicenas.export.definitions import Definitions
from dicenas.export.printing import with_comment
from dicenas.export.specialization import Specialization, call_expression, is_literal, literal, specialization_of
from dicenas.nets import Network, get_backbone

__all__ = ["SourceParts", "source_parts"]


@dataclass(frozen=True)
class SourceParts:
    """The parts of a network's source.

    Attributes:
        definitions: The classes of its modules, with all that they need.
        stem: Expression that constructs the stem.
        stages: Expression that constructs the stages, a comment above each.
        head: Expression that constructs the head.
        folded: Path of the convolution by the path of the normalisation that is folded into it.
        has_norms: Whether it has normalisations (that are not folded).
    """

    definitions: Definitions
    stem: ast.expr
    stages: ast.expr
    head: ast.expr
    folded: dict[str, str]
    has_norms: bool


def source_parts(network: Network, *, fold_norms: bool = False, kernels: bool = True) -> SourceParts:
    """Return the parts of the source of a network.

    Args:
        network: The network; its weights do not matter.
        fold_norms: Write it without the normalisations that stand right behind a convolution.
        kernels: Whether it takes the kernels of this package where it is installed.

    Raises:
        ValueError: The source of an op cannot stand alone, with the op's name; or the network is no longer the one
            that its architecture describes.
    """
    rebuilt, calls = rebuild(network)
    specializations = {
        cls: specialization_of(cls, [calls[module] for module in rebuilt.modules() if type(module) is cls])
        for cls in {type(module) for module in rebuilt.modules()}
        if not _is_of_torch(cls) and cls is not Network
    }
    expressions = _Expressions(calls, specializations, fold_norms)
    values = (value for arguments in calls.values() for value in arguments.values())
    activations = {value for value in values if isinstance(value, str)}
    definitions = Definitions(specializations, activations, fold_norms=fold_norms, kernels=kernels)
    stem = _block(rebuilt.stem, expressions, definitions)
    stages = _stages(rebuilt, expressions, definitions)
    head = _block(rebuilt.head, expressions, definitions)
    folded = _folded_paths(rebuilt, definitions.folded) if fold_norms else {}
    norms = {name for name, module in rebuilt.named_modules() if isinstance(module, nn.BatchNorm2d)}
    return SourceParts(definitions, stem, stages, head, folded, bool(norms - set(folded)))


def _folded_paths(network: Network, folded: dict[str, dict[str, str]]) -> dict[str, str]:
    paths: dict[str, str] = {}
    for path, module in network.named_modules():
        if isinstance(module, nn.Sequential):
            pairs = _foldable(module)
        elif _is_of_torch(type(module)):
            continue
        else:
            pairs = folded.get(type(module).__name__, {})
        paths |= {f"{path}.{norm}": f"{path}.{conv}" for norm, conv in pairs.items()}
    return paths


def _foldable(sequence: nn.Sequential) -> dict[str, str]:
    """Return the convolutions by the normalisations right behind them, both by name."""
    children = list(sequence.named_children())
    return {
        norm: conv
        for (conv, first), (norm, second) in itertools.pairwise(children)
        if type(first) is nn.Conv2d and type(second) is nn.BatchNorm2d
    }


def _stages(network: Network, expressions: _Expressions, definitions: Definitions) -> ast.expr:
    """Return the expression of all stages, a comment above each."""
    layout = get_backbone(network.architecture.backbone).layout(network.architecture)
    stages: list[ast.expr] = []
    for number, (modules, blocks) in enumerate(zip(network.stages, layout.stages, strict=True), 1):
        assert isinstance(modules, nn.Sequential)
        written = [
            _block(module, expressions, definitions, block.op) for module, block in zip(modules, blocks, strict=True)
        ]
        height, width = blocks[-1].size
        comment = f"Stage {number}: {blocks[-1].out_channels} channels, {height} x {width}"
        stages.append(with_comment(_call_of_nn("Sequential", written), comment))
    return _call_of_nn("Sequential", stages)


def _block(module: nn.Module, expressions: _Expressions, definitions: Definitions, op: str | None = None) -> ast.expr:
    """Return the expression of a block, and add the definitions of its classes."""
    try:
        for child in module.modules():
            if not _is_of_torch(type(child)):
                definitions.add_class(type(child))
        return expressions.of_module(module)
    except ValueError as error:
        what = f"op {op!r}" if op else type(module).__name__
        raise ValueError(f"{what} cannot be exported as source that needs torch alone: {error}") from error


class _Expressions:
    """The expressions that construct modules.

    Args:
        calls: Constructor calls of the modules.
        specializations: What the network fixes of each class that is not torch's.
        fold_norms: Whether normalisations are folded into the convolution in front of them.
    """

    def __init__(
        self,
        calls: ConstructorCalls,
        specializations: dict[type[nn.Module], Specialization],
        fold_norms: bool,
    ) -> None:
        self._calls = calls
        self._specializations = specializations
        self._fold_norms = fold_norms

    def of_module(self, module: nn.Module) -> ast.expr:
        """Return the expression that constructs a module."""
        cls = type(module)
        if cls is nn.Sequential:
            assert isinstance(module, nn.Sequential)
            if [name for name, _ in module.named_children()] != [str(i) for i in range(len(list(module.children())))]:
                raise ValueError("an nn.Sequential with names of its own")
            return _call_of_nn("Sequential", self._of_children(module))
        arguments = {name: self._of_value(value, name, cls) for name, value in self._calls[module].items()}
        if cls in self._specializations:
            return call_expression(ast.Name(cls.__name__, ast.Load()), self._specializations[cls], arguments)
        if getattr(nn, cls.__name__, None) is not cls:
            raise ValueError(f"{cls.__module__}.{cls.__qualname__} is no class of torch.nn")
        return call_expression(_nn(cls.__name__), Specialization(inspect.signature(cls)), arguments)

    def _of_children(self, sequence: nn.Sequential) -> list[ast.expr]:
        folded = _foldable(sequence) if self._fold_norms else {}
        written = {name: self.of_module(child) for name, child in sequence.named_children()}
        for norm, conv in folded.items():
            call = written[conv]
            assert isinstance(call, ast.Call)
            call.keywords = [keyword for keyword in call.keywords if keyword.arg != "bias"]
            written[norm] = _call_of_nn("Identity", [])  # keeps the names of what comes behind
        return list(written.values())

    def _of_value(self, value: Any, name: str, cls: type[nn.Module]) -> ast.expr:
        if isinstance(value, nn.Module):
            return self.of_module(value)
        if not is_literal(value):
            raise ValueError(f"{cls.__qualname__}({name}={value!r}): the value cannot be written as a literal")
        return literal(value)


def _is_of_torch(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "torch"


def _nn(name: str) -> ast.expr:
    return ast.Attribute(ast.Name("nn", ast.Load()), name, ast.Load())


def _call_of_nn(name: str, arguments: Iterable[ast.expr]) -> ast.expr:
    return ast.Call(_nn(name), list(arguments), [])
