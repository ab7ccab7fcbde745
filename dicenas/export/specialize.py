"""Rewrites the classes of a network for the one use that the network makes of them.

A class of the package serves many networks; in an exported network most of its options have one value. Those options
are replaced by their values, and what that leaves without effect goes: conditions that are known, identities, checks
of arguments.
"""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from dicenas.ops import make_activation
from dicenas.ops.norm_act import conv_norm_act, is_plain, norm_act

__all__ = ["Specialization", "call_expression", "is_literal", "literal", "specialization_of", "specialize"]


@dataclass(frozen=True)
class Specialization:
    """What a network fixes of a class.

    Attributes:
        signature: Signature of the constructor.
        constants: Parameters with one value throughout the network; they go.
        switches: Parameters that name an activation or are ``None``, where the network has one activation; they
            become booleans.
    """

    signature: inspect.Signature
    constants: Mapping[str, Any] = field(default_factory=dict)
    switches: Mapping[str, str] = field(default_factory=dict)


def specialization_of(cls: type[nn.Module], calls: Sequence[Mapping[str, Any]]) -> Specialization:
    """Return what all constructor calls of a class have in common.

    Numbers without a default stay parameters even where they agree: a layer is written for any number of channels.
    """
    signature = inspect.signature(cls)
    constants: dict[str, Any] = {}
    switches: dict[str, str] = {}
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
    return Specialization(signature, constants, switches)


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
            value, default = _as_switch(value), default if default is parameter.empty else default is not None
        if default is not parameter.empty and is_literal(default) and ast.dump(literal(default)) == ast.dump(value):
            continue
        unclear = isinstance(value, ast.Tuple) or (isinstance(value, ast.Constant) and isinstance(value.value, float))
        by_keyword = keywords or default is not parameter.empty or unclear
        if parameter.kind is parameter.POSITIONAL_ONLY or not by_keyword:
            positional.append(value)
        else:
            keywords.append(ast.keyword(name, value))
    return ast.Call(function, positional, keywords)


def _as_switch(value: ast.expr) -> ast.expr:
    """Return the condition under which the name of an activation is not ``None``."""
    match value:
        case ast.Constant():
            return ast.Constant(value.value is not None)
        case ast.IfExp(body=body, orelse=orelse):
            return _simplify(ast.IfExp(value.test, _as_switch(body), _as_switch(orelse)))
        case _:
            return ast.Compare(value, [ast.IsNot()], [ast.Constant(None)])


def specialize(
    node: ast.stmt, names: Mapping[str, Any], specializations: Mapping[Any, Specialization], own: Specialization | None
) -> ast.stmt:
    """Return a definition rewritten for one network.

    Args:
        node: The definition of a class or function.
        names: What the names in it refer to.
        specializations: What the network fixes of each class.
        own: What it fixes of this one, ``None`` for a function.
    """
    node = copy.deepcopy(node)
    _shorten_docstrings(node)
    if isinstance(node, ast.ClassDef):
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and method.name == "__init__" and own is not None:
                method.body = [statement for statement in method.body if not _is_check(statement)]
                _fix_parameters(method, own)
    rewritten: ast.stmt = _Rewriter(names, specializations, own or Specialization(inspect.Signature())).visit(node)
    if isinstance(rewritten, ast.ClassDef):
        _remove_identities(rewritten)
    return ast.fix_missing_locations(rewritten)


def _shorten_docstrings(node: ast.stmt) -> None:
    """Keep of each docstring the line that says what the thing is."""
    for child in ast.walk(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(child)):
            child.body[0] = ast.Expr(ast.Constant(text.partition("\n\n")[0]))


def _is_check(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and not statement.orelse and isinstance(statement.body[-1], ast.Raise)


def _fix_parameters(method: ast.FunctionDef, own: Specialization) -> None:
    """Replace constant parameters by their values, and switches' types by ``bool``."""
    arguments = method.args
    positional = [*arguments.posonlyargs, *arguments.args]
    first_default = len(positional) - len(arguments.defaults)
    defaults = dict(zip((argument.arg for argument in positional[first_default:]), arguments.defaults, strict=True))
    for name in own.switches:
        if name in defaults:
            defaults[name] = _as_switch(defaults[name])
    for argument in (*positional, *arguments.kwonlyargs):
        if argument.arg in own.switches:
            argument.annotation = ast.Name("bool", ast.Load())
    arguments.posonlyargs = [argument for argument in arguments.posonlyargs if argument.arg not in own.constants]
    arguments.args = [argument for argument in arguments.args if argument.arg not in own.constants]
    kept = {argument.arg for argument in (*arguments.posonlyargs, *arguments.args)}
    arguments.defaults = [value for name, value in defaults.items() if name in kept]
    keyword_only = [
        (argument, _as_switch(default) if default and argument.arg in own.switches else default)
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if argument.arg not in own.constants
    ]
    arguments.kwonlyargs = [argument for argument, _ in keyword_only]
    arguments.kw_defaults = [default for _, default in keyword_only]


class _Rewriter(ast.NodeTransformer):
    """Puts in constants and simplifies what follows from them."""

    def __init__(
        self, names: Mapping[str, Any], specializations: Mapping[Any, Specialization], own: Specialization
    ) -> None:
        self.names = names
        self.specializations = specializations
        self.own = own
        self.constants: Mapping[str, Any] = {}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if node.name != "__init__":
            self.generic_visit(node)
            return node
        assigned = {
            name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
        }
        fixed = self.own.constants
        self.constants = {name: value for name, value in fixed.items() if name not in assigned}
        self.generic_visit(node)
        self.constants = {}
        starts = (ast.Assign([ast.Name(name, ast.Store())], literal(fixed[name])) for name in fixed if name in assigned)
        node.body[:0] = starts
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return literal(self.constants[node.id]) if node.id in self.constants else node

    def visit_If(self, node: ast.If) -> ast.AST | Sequence[ast.stmt]:
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant):
            return node.body if node.test.value else node.orelse
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        return _simplify(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        return _simplify(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        self.generic_visit(node)
        return _simplify(node)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        return _simplify(node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        self.generic_visit(node)
        return _simplify(node)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        target = self.names.get(node.func.id) if isinstance(node.func, ast.Name) else None
        if target is make_activation:
            return self._activation(node)
        if target is conv_norm_act or target is norm_act:
            return _plain_calls(node)
        if target is is_plain:  # asks whether a kernel may stand for the modules: exported sources call the modules
            return ast.Constant(False)
        if target in self.specializations:
            specialization = self.specializations[target]
            keywords = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
            bound = specialization.signature.bind(*node.args, **keywords)
            return call_expression(node.func, specialization, bound.arguments)
        return node

    def _activation(self, node: ast.Call) -> ast.expr:
        name, channels = node.args
        identity = ast.parse("nn.Identity()", mode="eval").body
        match name:
            case ast.Constant(value=None):
                return identity
            case ast.Constant(value=str(activation)):
                return _activation_call(activation, channels)
            case ast.Name(id=switch) if switch in self.own.switches:
                return ast.IfExp(name, _activation_call(self.own.switches[switch], channels), identity)
        return node


def _plain_calls(node: ast.Call) -> ast.expr:
    """Return a call of ``conv_norm_act`` or ``norm_act`` as the calls of the modules that it stands for."""
    x, *modules = node.args
    gate = modules.pop() if len(modules) == 4 else None
    for module in modules:
        x = ast.Call(module, [x], [])
    return x if gate is None else ast.BinOp(x, ast.Mult(), gate)


def _activation_call(name: str, channels: ast.expr) -> ast.expr:
    """Return the constructor call of an activation."""
    module = make_activation(name, 1)
    takes_channels = bool(list(module.parameters()))
    function = ast.Attribute(ast.Name("nn", ast.Load()), type(module).__name__, ast.Load())
    return ast.Call(function, [channels] if takes_channels else [], [])


def _simplify(node: ast.expr) -> ast.expr:
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


def _remove_identities(node: ast.ClassDef) -> None:
    """Remove the attributes of a class that are ``nn.Identity()`` whatever its arguments."""
    assigned: dict[str, list[ast.stmt]] = {}
    for child in ast.walk(node):
        match child:
            case (
                ast.Assign(targets=[ast.Attribute(value=ast.Name(id="self"), attr=attribute)])
                | ast.AnnAssign(target=ast.Attribute(value=ast.Name(id="self"), attr=attribute))
            ):
                assigned.setdefault(attribute, []).append(child)
    identities = {
        attribute
        for attribute, statements in assigned.items()
        if all(isinstance(s, ast.Assign) and ast.unparse(s.value) == "nn.Identity()" for s in statements)
    }

    class Remover(ast.NodeTransformer):
        def visit_Assign(self, node: ast.Assign) -> ast.stmt | None:
            target = node.targets[0]
            if isinstance(target, ast.Attribute) and target.attr in identities:
                return None
            self.generic_visit(node)
            return node

        def visit_Call(self, node: ast.Call) -> ast.expr:
            self.generic_visit(node)
            if isinstance(node.func, ast.Attribute) and node.func.attr in identities and len(node.args) == 1:
                return node.args[0]
            return node

    if identities:
        Remover().visit(node)
