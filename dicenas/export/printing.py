"""Prints syntax trees as formatted source text, since exporting should not need a formatter installed.

``ast.unparse`` gives one long line a statement. Here long lines are broken as ``ruff format`` breaks them by default:
at 88 characters, the arguments of a call on a line of their own or, where that is too long, one a line.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from typing import TypeVar

__all__ = ["add_comments", "format_statements", "import_statement", "with_comment"]

_WIDTH = 88
_INDENT = "    "
_COMMENTS = "comments"  # attribute of a node

Node = TypeVar("Node", ast.expr, ast.stmt)


def with_comment(node: Node, *lines: str) -> Node:
    """Attach comment lines to a node; they are printed above it."""
    setattr(node, _COMMENTS, lines)
    return node


def add_comments(tree: ast.Module, source: str) -> None:
    """Attach the comment lines of ``source`` to the statements of its tree that they stand above."""
    lines = [line.strip() for line in source.splitlines()]
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            first = node.lineno - 1
            while first > 0 and lines[first - 1].startswith("#"):
                first -= 1
            with_comment(node, *(line.lstrip("#: ") for line in lines[first : node.lineno - 1]))


def format_statements(statements: Sequence[ast.stmt]) -> str:
    """Return the text of top-level statements, definitions two lines apart."""
    text = ""
    for previous, statement in zip((None, *statements), statements, strict=False):
        if previous is not None:
            text += "\n\n" if _is_definition(previous) or _is_definition(statement) else ""
        text += "\n".join(_statement(statement, "")) + "\n"
    return text


def import_statement(module: str, names: Sequence[str]) -> str:
    """Return the text of ``from module import names``, one name a line where that is too long."""
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"from {module} import (", *(f"{_INDENT}{name}," for name in names), ")"])


def _is_definition(node: ast.stmt) -> bool:
    return isinstance(node, ast.ClassDef | ast.FunctionDef)


def _unparse(node: ast.AST) -> str:
    """As ``ast.unparse``, with double quotes."""
    text = ast.unparse(node)
    # A string with quotes of one kind in it is written in quotes of the other.
    return text if '"' in text or "\\" in text else text.replace("'", '"')


def _comment_lines(node: ast.AST, indent: str) -> list[str]:
    return [f"{indent}# {line}" for line in getattr(node, _COMMENTS, ())]


def _statement(node: ast.stmt, indent: str) -> list[str]:
    return _comment_lines(node, indent) + _bare_statement(node, indent)


def _bare_statement(node: ast.stmt, indent: str) -> list[str]:
    match node:
        case ast.ClassDef():
            bases = ", ".join(_unparse(base) for base in node.bases)
            header = [f"{indent}class {node.name}({bases}):" if bases else f"{indent}class {node.name}:"]
            return _decorators(node, indent) + header + _body(node.body, indent)
        case ast.FunctionDef():
            returns = f" -> {_unparse(node.returns)}" if node.returns else ""
            header = _enclosed(f"{indent}def {node.name}(", _parameters(node.args), f"){returns}:", indent)
            return _decorators(node, indent) + header + _body(node.body, indent)
        case ast.If():
            lines = [f"{indent}if {_unparse(node.test)}:", *_body(node.body, indent)]
            if len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If):
                first, *rest = _statement(node.orelse[0], indent)
                return [*lines, f"{indent}el{first.lstrip()}", *rest]
            return lines + ([f"{indent}else:", *_body(node.orelse, indent)] if node.orelse else [])
        case ast.For():
            header = [f"{indent}for {_target(node.target)} in {_unparse(node.iter)}:"]
            return header + _body(node.body, indent)
        case ast.While():
            return [f"{indent}while {_unparse(node.test)}:", *_body(node.body, indent)]
        case ast.With():
            return [f"{indent}with {', '.join(map(_unparse, node.items))}:", *_body(node.body, indent)]
        case ast.Try():
            lines = [f"{indent}try:", *_body(node.body, indent)]
            for handler in node.handlers:
                caught = f" {_unparse(handler.type)}" if handler.type else ""
                lines += [f"{indent}except{caught}:", *_body(handler.body, indent)]
            return lines
        case ast.Expr(value=ast.Constant(value=str(text))):
            return [f'{indent}"""{text}"""']
        case ast.Return(value=ast.expr() as value):
            return _value(value, indent, "return ")
        case ast.Raise(exc=ast.expr() as value, cause=None):
            return _expression(value, indent, "raise ", "")
        case ast.Assign():
            targets = "".join(f"{_target(target)} = " for target in node.targets)
            return _value(node.value, indent, targets)
        case ast.AnnAssign(value=ast.expr() as value):
            return _value(value, indent, f"{_unparse(node.target)}: {_unparse(node.annotation)} = ")
        case ast.Expr():
            return _expression(node.value, indent, "", "")
        case ast.ImportFrom() if node.module == "dicenas.ops":
            return [f"{indent}{_unparse(node)}  # type: ignore[import-not-found, unused-ignore]"]
        case _:
            return [indent + line for line in _unparse(node).splitlines()]


def _decorators(node: ast.ClassDef | ast.FunctionDef, indent: str) -> list[str]:
    return [f"{indent}@{_unparse(decorator)}" for decorator in node.decorator_list]


def _body(statements: Sequence[ast.stmt], indent: str) -> list[str]:
    indent += _INDENT
    lines: list[str] = []
    for position, statement in enumerate(statements):
        if _is_definition(statement) or (position and _is_definition(statements[position - 1])):
            lines.append("")
        lines += _statement(statement, indent)
    return lines


def _parameters(arguments: ast.arguments) -> list[str]:
    """Return the parameters of a function, one string each."""

    def parameter(argument: ast.arg, default: ast.expr | None = None, prefix: str = "") -> str:
        annotation = f": {_unparse(argument.annotation)}" if argument.annotation else ""
        equals = " = " if annotation else "="
        return f"{prefix}{argument.arg}{annotation}" + (f"{equals}{_unparse(default)}" if default else "")

    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    listed = [parameter(argument, default) for argument, default in zip(positional, defaults, strict=True)]
    if arguments.posonlyargs:
        listed.insert(len(arguments.posonlyargs), "/")
    if arguments.vararg:
        listed.append(parameter(arguments.vararg, prefix="*"))
    elif arguments.kwonlyargs:
        listed.append("*")
    listed += map(parameter, arguments.kwonlyargs, arguments.kw_defaults)
    if arguments.kwarg:
        listed.append(parameter(arguments.kwarg, prefix="**"))
    return listed


def _enclosed(start: str, items: Sequence[str], end: str, indent: str) -> list[str]:
    """Return items between brackets: on one line, or on a line of their own, or one a line."""
    inner = indent + _INDENT
    if len(line := start + ", ".join(items) + end) <= _WIDTH or not items:
        return [line]
    if len(line := inner + ", ".join(items)) <= _WIDTH:
        return [start, line, indent + end]
    return [start, *(f"{inner}{item}," for item in items), indent + end]


def _target(node: ast.expr) -> str:
    """Return the target of an assignment or loop; tuples go without parentheses there."""
    return _unparse(node).removeprefix("(").removesuffix(")") if isinstance(node, ast.Tuple) else _unparse(node)


def _has_comments(nodes: Iterable[ast.AST]) -> bool:
    return any(getattr(child, _COMMENTS, ()) for node in nodes for child in ast.walk(node))


def _value(node: ast.expr, indent: str, prefix: str) -> list[str]:
    """Return the value of a statement; conditional expressions that are too long go into parentheses."""
    lines = _expression(node, indent, prefix, "")
    if not isinstance(node, ast.IfExp) or len(lines[0]) <= _WIDTH:
        return lines
    inner = indent + _INDENT
    if len(line := inner + _unparse(node)) <= _WIDTH:
        return [f"{indent}{prefix}(", line, f"{indent})"]
    parts = _unparse(node.body), f"if {_unparse(node.test)}", f"else {_unparse(node.orelse)}"
    return [f"{indent}{prefix}(", *(inner + part for part in parts), f"{indent})"]


def _expression(node: ast.expr, indent: str, prefix: str, suffix: str) -> list[str]:
    """Return an expression on one line where it fits, else broken at its outermost brackets."""
    line = indent + prefix + _unparse(node) + suffix
    if len(line) <= _WIDTH and not _has_comments(ast.iter_child_nodes(node)):
        return [line]
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Call(args=[_, *_]) as front, attr=attribute)):
            # A chain: break the call in front, where the arguments are.
            end = _unparse(ast.Call(ast.Name(""), node.args, node.keywords))
            return _expression(front, indent, prefix, f".{attribute}{end}{suffix}")
        case ast.Call(args=[ast.GeneratorExp()], keywords=[]):
            return [line]
        case ast.Call():
            items = [("", argument) for argument in node.args]
            items += [(f"{keyword.arg}=" if keyword.arg else "**", keyword.value) for keyword in node.keywords]
            start, end = f"{_unparse(node.func)}(", ")"
        case ast.Tuple():
            items, start, end = [("", element) for element in node.elts], "(", ")"
        case ast.List():
            items, start, end = [("", element) for element in node.elts], "[", "]"
        case ast.Dict() if None not in node.keys:
            pairs = zip(node.keys, node.values, strict=True)
            items, start, end = [(f"{_unparse(key)}: ", value) for key, value in pairs if key], "{", "}"
        case _:
            return [line]
    inner = indent + _INDENT
    own_line = inner + ", ".join(name + _unparse(item) for name, item in items)
    # The entries of a literal go one a line.
    if isinstance(node, ast.Call) and len(own_line) <= _WIDTH and not _has_comments([node]):
        return [indent + prefix + start, own_line, indent + end + suffix]
    lines = [indent + prefix + start]
    for name, item in items:
        lines += _comment_lines(item, inner) + _expression(item, inner, name, ",")
    return [*lines, indent + end + suffix]
