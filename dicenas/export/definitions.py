"""Collects the source of classes with all that it needs: functions, constants and imports."""

from __future__ import annotations

import ast
import builtins
import copy
import importlib
import inspect
import sys
from collections.abc import Collection, Mapping
from functools import cache
from types import ModuleType
from typing import Any

from dicenas.export.folding import fold_class
from dicenas.export.printing import add_comments, import_statement
from dicenas.export.specialization import Specialization
from dicenas.export.specialize import specialize
from dicenas.ops import dim_conv
from dicenas.ops.layers import ACTIVATIONS

__all__ = ["Definitions"]


class Definitions:
    """The definitions that a network's source needs, each behind those that it uses.

    Args:
        specializations: What the network fixes of each of its classes.
        activations: Names of its activations; a table of activations has no others.
        fold_norms: Write classes without the normalisations that stand right behind a convolution.
        kernels: Whether the source takes the kernels of this package where it is installed.

    Attributes:
        statements: The definitions.
        imports: Modules and the names taken from them; no module for a plain import.
        folded: For each class by name, the convolution by the name of the normalisation that is folded into it.
    """

    def __init__(
        self,
        specializations: Mapping[Any, Specialization],
        activations: Collection[str],
        *,
        fold_norms: bool = False,
        kernels: bool = True,
    ) -> None:
        self.statements: list[ast.stmt] = []
        self.folded: dict[str, dict[str, str]] = {}
        self.imports: set[tuple[str | None, str]] = set()
        self._specializations = specializations
        self._activations = activations
        self._fold_norms = fold_norms
        self._kernels = kernels
        self._origins: dict[str, str] = {}

    def add_class(self, cls: type) -> None:
        """Add a class and what it needs.

        Raises:
            ValueError: The class, or what it needs, is not available as source that depends on torch alone.
        """
        self._add(cls.__qualname__, _module(cls.__module__))

    def import_text(self) -> str:
        """Return the import statements, sorted as isort does."""
        lines: dict[bool, list[str]] = {True: [], False: []}  # of the standard library, of others
        for module in sorted({module for module, _ in self.imports if module}):
            names = sorted({name for origin, name in self.imports if origin == module}, key=_import_order)
            lines[_is_standard(module)].append(import_statement(module, names))
        for standard in lines:
            plain = sorted(name for module, name in self.imports if not module and _is_standard(name) == standard)
            lines[standard] = [f"import {name}" for name in plain] + lines[standard]
        return "\n\n".join("\n".join(group) for group in (lines[True], lines[False]) if group) + "\n"

    def _add(self, name: str, module: ModuleType) -> None:
        """Add what ``name`` means in ``module``."""
        node = _top_level(module).get(name)
        if node is None:
            raise ValueError(f"{name} of {module.__name__} is not defined at the top level of its module")
        if isinstance(node, ast.Import | ast.ImportFrom):
            self._add_imported(name, module, node)
            return
        if name in self._origins:
            if self._origins[name] != module.__name__:
                raise ValueError(f"two definitions of {name}, in {self._origins[name]} and in {module.__name__}")
            return
        self._origins[name] = module.__name__
        value = vars(module)[name]
        if isinstance(node, ast.ClassDef):
            self._check_bases(value)
        if value is ACTIVATIONS:
            node = _only(node, self._activations)
        if value is dim_conv:
            node = _reference_of(node, _top_level(module)["dim_conv_reference"])
        node = specialize(node, vars(module), self._specializations, self._specializations.get(_key(value)))
        if self._fold_norms and isinstance(node, ast.ClassDef):
            self.folded[node.name] = fold_class(node)
        for used in _names(node):
            if used != name and used in vars(module):
                self._add(used, module)
            elif used == "nn":  # written by the specialization of an activation
                self.imports.add(("torch", "nn"))
            elif used not in vars(builtins) and used not in vars(module):
                raise ValueError(f"{name} of {module.__name__} uses {used}, which its module does not define")
        if value is dim_conv and self._kernels:
            node = ast.Try(
                [ast.ImportFrom("dicenas.ops", [ast.alias("dim_conv")], 0)],
                [ast.ExceptHandler(ast.Name("ImportError", ast.Load()), None, [node])],
                [],
                [],
            )
        self.statements.append(node)

    def _add_imported(self, name: str, module: ModuleType, node: ast.Import | ast.ImportFrom) -> None:
        alias = next(alias for alias in node.names if (alias.asname or alias.name.partition(".")[0]) == name)
        written = alias.name if alias.asname in (None, alias.name) else f"{alias.name} as {alias.asname}"
        if isinstance(node, ast.Import):
            origin, root = None, alias.name.partition(".")[0]
        else:
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), module.__package__)
            root = origin.partition(".")[0]
        if root == "torch" or root in sys.stdlib_module_names:
            self.imports.add((origin, written))
        elif origin and root in ("dicenas", module.__name__.partition(".")[0]) and alias.asname in (None, alias.name):
            value = vars(module)[name]
            self._add(name, _module(getattr(value, "__module__", origin)))
        else:
            raise ValueError(f"{module.__name__} needs {alias.name} of {origin or alias.name}")

    def _check_bases(self, cls: type) -> None:
        for base in cls.__bases__:
            if base.__module__.partition(".")[0] not in ("torch", "builtins"):
                raise ValueError(f"{cls.__qualname__} is derived from {base.__qualname__}, which is no class of torch")


def _key(value: Any) -> Any:
    return value if isinstance(value, type) else None


def _module(name: str) -> ModuleType:
    return sys.modules[name] if name in sys.modules else importlib.import_module(name)


@cache
def _top_level(module: ModuleType) -> dict[str, ast.stmt]:
    """Return the statements of a module that define its names."""
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError) as error:
        raise ValueError(f"module {module.__name__} has no source") from error
    tree = ast.parse(source)
    add_comments(tree, source)
    defined: dict[str, ast.stmt] = {}
    for node in tree.body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                defined[name] = node
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                defined[name] = node
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                for alias in aliases:
                    defined[alias.asname or alias.name.partition(".")[0]] = node
    return defined


def _reference_of(function: ast.stmt, reference: ast.stmt) -> ast.FunctionDef:
    """Return a function with the body of its reference implementation."""
    assert isinstance(function, ast.FunctionDef)
    assert isinstance(reference, ast.FunctionDef)
    body = [function.body[0], *reference.body[1:]]
    return ast.FunctionDef(function.name, function.args, body, [], function.returns)


def _only(table: ast.stmt, keys: Collection[str]) -> ast.stmt:
    """Return the definition of a table without the entries that have other keys."""
    table = copy.deepcopy(table)
    assert isinstance(table, ast.AnnAssign)
    assert isinstance(table.value, ast.Dict)
    entries = zip(table.value.keys, table.value.values, strict=True)
    kept = [(key, value) for key, value in entries if isinstance(key, ast.Constant) and key.value in keys]
    table.value.keys, table.value.values = [key for key, _ in kept], [value for _, value in kept]
    return table


def _names(node: ast.AST) -> list[str]:
    """Return the names that a definition takes from its module, in their order."""
    own = {child.arg for child in ast.walk(node) if isinstance(child, ast.arg)}
    loaded: dict[str, None] = {}
    for child in ast.walk(node):
        if isinstance(child, ast.Name):
            if isinstance(child.ctx, ast.Load):
                loaded[child.id] = None
            else:
                own.add(child.id)
    return [name for name in loaded if name not in own]


def _is_standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


def _import_order(name: str) -> tuple[int, str]:
    """Constants, classes, then the rest, as isort sorts them."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2), name
