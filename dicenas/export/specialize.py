"""Rewrites the classes of a network for the one use that the network makes of them.

A class of the package serves many networks; in an exported network most of its options have one value. Those options
are replaced by their values, and what that leaves without effect goes: conditions that are known, identities, checks
of arguments.
"""

from __future__ import annotations

import ast
import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from dicenas.export.specialization import Specialization, as_switch, call_expression, literal, simplify
from dicenas.ops import make_activation
from dicenas.ops.norm_act import conv_norm_act, is_plain, norm_act

__all__ = ["specialize"]


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
            if isinstance(method, ast.FunctionDef) and method.name in ("__init__", "forward"):
                method.body = [statement for statement in method.body if not _is_check(statement)]
                if method.name == "__init__" and own is not None:
                    _fix_parameters(method, own)
    rewritten: ast.stmt = _Rewriter(names, specializations, own or Specialization(inspect.Signature())).visit(node)
    if isinstance(rewritten, ast.ClassDef):
        _remove_identities(rewritten)
        _replace_aliases(rewritten)
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
    defaults |= {name: literal(own.defaults[name]) for name in own.defaults if name in defaults}
    for name in own.switches:
        if name in defaults:
            defaults[name] = as_switch(defaults[name])
    for argument in (*positional, *arguments.kwonlyargs):
        if argument.arg in own.switches:
            argument.annotation = ast.Name("bool", ast.Load())
    arguments.posonlyargs = [argument for argument in arguments.posonlyargs if argument.arg not in own.constants]
    arguments.args = [argument for argument in arguments.args if argument.arg not in own.constants]
    kept = {argument.arg for argument in (*arguments.posonlyargs, *arguments.args)}
    arguments.defaults = [value for name, value in defaults.items() if name in kept]
    keyword_only = [
        (argument, as_switch(default) if default and argument.arg in own.switches else default)
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
        return simplify(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        return simplify(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        self.generic_visit(node)
        return simplify(node)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        return simplify(node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        self.generic_visit(node)
        return simplify(node)

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


def _replace_aliases(node: ast.ClassDef) -> None:
    """Write ``self.attribute`` where a method has given it a name: what that made shorter is often gone."""

    class Replacer(ast.NodeTransformer):
        def __init__(self, aliases: Mapping[str, ast.expr]) -> None:
            self.aliases = aliases

        def visit_Name(self, node: ast.Name) -> ast.expr:
            return copy.deepcopy(self.aliases[node.id]) if node.id in self.aliases else node

    for method in node.body:
        if not isinstance(method, ast.FunctionDef) or method.name == "__init__":
            continue
        names = (child for child in ast.walk(method) if isinstance(child, ast.Name))
        stored = [name.id for name in names if isinstance(name.ctx, ast.Store)]
        aliases: dict[str, ast.expr] = {}
        for statement in method.body:
            match statement:
                case ast.Assign(
                    targets=[ast.Name(id=name)], value=ast.Attribute(value=ast.Name(id="self")) as value
                ) if stored.count(name) == 1:
                    aliases[name] = value
        method.body = [s for s in method.body if not (isinstance(s, ast.Assign) and s.value in aliases.values())]
        Replacer(aliases).visit(method)
