"""What a network fixes of its classes, and the expressions that follow from it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

__all__ = [
    "Specialization",
    "as_switch",
    "call_expression",
    "is_literal",
    "literal",
    "simplify",
    "specialization_of",
]


@dataclass(frozen=True)
class Specialization:
    """What a network fixes of a class.

    Attributes:
        signature: Signature of the constructor, with the defaults that it is written with.
        constants: Parameters with one value throughout the network; they go.
        switches: Parameters that name an activation or are ``None``, where the network has one activation; they
            become booleans.
        defaults: Defaults that are not those of the class: an activation that the network has, in place of one that
            it has not.
    """

    signature: inspect.Signature
    constants: Mapping[str, Any] = field(default_factory=dict)
    switches: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)


def specialization_of(cls: type[nn.Module], calls: Sequence[Mapping[str, Any]]) -> Specialization:
    """Return what all constructor calls of a class have in common.

    Numbers without a default stay parameters even where they agree: a layer is written for any number of channels.
    """
    signature = inspect.signature(cls)
    constants: dict[str, Any] = {}
    switches: dict[str, str] = {}
    defaults: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        values = [call[name] for call in calls]
        if not all(map(is_literal, values)):
            continue
        if all(_same(value, values[0]) for value in values):
            if values[0] is None or isinstance(values[0], bool | str) or _same(values[0], parameter.default):
                constants[name] = values[0]
        elif None in values and len(names := {value for value in values if value is not None}) == 1:
            (value,) = names
            if isinstance(value, str) and _only_names_activation(cls, name):
                switches[name] = value
        names_something = all(value is None or isinstance(value, str) for value in (parameter.default, *values))
        if names_something and parameter.default not in values and name not in {**constants, **switches}:
            defaults[name] = Counter(values).most_common(1)[0][0]
    parameters = [
        parameter.replace(default=defaults.get(name, parameter.default))
        for name, parameter in signature.parameters.items()
    ]
    return Specialization(signature.replace(parameters=parameters), constants, switches, defaults)


def _only_names_activation(cls: type[nn.Module], parameter: str) -> bool:
    """Return whether a constructor does nothing with a parameter but to give it to ``make_activation``."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls.__init__)))
    except OSError:
        return False
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == parameter]
    named = []
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="make_activation"), args=[ast.Name(id=name), _]) if name == parameter:
                named.append(node.args[0])
    return bool(named) and len(uses) == len(named)


def is_literal(value: Any) -> bool:
    """Return whether a value can be written as a literal."""
    if isinstance(value, tuple | list):
        return all(map(is_literal, value))
    return value is None or isinstance(value, bool | int | float | str)


def literal(value: Any) -> ast.expr:
    """Return the expression of a literal value."""
    if isinstance(value, tuple):
        return ast.Tuple([literal(element) for element in value], ast.Load())
    if isinstance(value, list):
        return ast.List([literal(element) for element in value], ast.Load())
    return ast.parse(repr(value), mode="eval").body


def _same(value: Any, other: Any) -> bool:
    """Equality that tells ``1`` from ``True``."""
    return type(value) is type(other) and value == other


def call_expression(function: ast.expr, specialization: Specialization, arguments: Mapping[str, ast.expr]) -> ast.Call:
    """Return the call of a specialized class: what is constant or default left out, options by keyword."""
    positional: list[ast.expr] = []
    keywords: list[ast.keyword] = []
    for name, parameter in specialization.signature.parameters.items():
        if name not in arguments or name in specialization.constants:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ValueError(f"the call of {ast.unparse(function)} passes a variable number of arguments")
        value, default = arguments[name], parameter.default
        if name in specialization.switches:
            value, default = as_switch(value), default if default is parameter.empty else default is not None
        if default is not parameter.empty and is_literal(default) and ast.dump(literal(default)) == ast.dump(value):
            continue
        unclear = isinstance(value, ast.Tuple) or (isinstance(value, ast.Constant) and isinstance(value.value, float))
        by_keyword = keywords or default is not parameter.empty or unclear
        if parameter.kind is parameter.POSITIONAL_ONLY or not by_keyword:
            positional.append(value)
        else:
            keywords.append(ast.keyword(name, value))
    return ast.Call(function, positional, keywords)


def as_switch(value: ast.expr) -> ast.expr:
    """Return the condition under which the name of an activation is not ``None``."""
    match value:
        case ast.Constant():
            return ast.Constant(value.value is not None)
        case ast.IfExp(body=body, orelse=orelse):
            return simplify(ast.IfExp(value.test, as_switch(body), as_switch(orelse)))
        case _:
            return ast.Compare(value, [ast.IsNot()], [ast.Constant(None)])


def simplify(node: ast.expr) -> ast.expr:
    """Return an expression without what is known of it."""
    match node:
        case ast.IfExp(test=ast.Constant(value=known)):
            return node.body if known else node.orelse
        case ast.IfExp(body=ast.Constant(value=True), orelse=ast.Constant(value=False)):
            return node.test
        case ast.IfExp(body=ast.Constant(value=False), orelse=ast.Constant(value=True)):
            return ast.UnaryOp(ast.Not(), node.test)
        case ast.BoolOp(op=ast.And(), values=values) if any(
            isinstance(value, ast.Constant) and value.value is False for value in values
        ):
            return ast.Constant(False)
        case ast.UnaryOp(op=ast.Not(), operand=ast.Constant(value=known)):
            return ast.Constant(not known)
        case ast.Compare(left=ast.Constant(value=left), ops=[operator], comparators=[ast.Constant(value=right)]):
            if isinstance(operator, ast.Is | ast.Eq):
                return ast.Constant(left == right)
            if isinstance(operator, ast.IsNot | ast.NotEq):
                return ast.Constant(left != right)
        case ast.Subscript(value=ast.Tuple(elts=elements), slice=ast.Constant(value=int(index))):
            return elements[index]
    return node
