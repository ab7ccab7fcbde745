"""Folds normalisations into the convolutions in front of them: in the source of a network and in its weights."""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["fold_class", "fold_weights"]

_MODULES: dict[str, type[nn.Module]] = {"nn.Conv2d": nn.Conv2d, "nn.BatchNorm2d": nn.BatchNorm2d}


def fold_class(node: ast.ClassDef) -> dict[str, str]:
    """Rewrite the definition of a module without the normalisations that stand right behind a convolution.

    Args:
        node: The definition; it is changed.

    Returns:
        The convolution's name by the name of the normalisation that is now part of it.
    """
    made: dict[str, list[ast.Assign]] = {}
    for child in ast.walk(node):
        match child:
            case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="self"), attr=name)], value=ast.Call()):
                made.setdefault(name, []).append(child)
    modules = {name: _module_of(statements[0]) for name, statements in made.items() if len(statements) == 1}
    folder = _Folder({name: module for name, module in modules.items() if module is not None}, _uses(node))
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name != "__init__":
            folder.visit(method)
    for norm, conv in folder.folded.items():
        _drop(node, made[norm][0])
        _give_bias(made[conv][0].value)
    if folder.folded and isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant):
        text = str(node.body[0].value.value)
        without = "onvolution without bias, batch normalisation, activation"
        node.body[0].value.value = text.replace(without, "onvolution with the normalisation folded in, activation")
    return folder.folded


class _Folder(ast.NodeTransformer):
    """Turns ``self.norm(self.conv(x))`` into ``self.conv(x)`` where neither is used elsewhere."""

    def __init__(self, modules: Mapping[str, type[nn.Module]], uses: Mapping[str, int]) -> None:
        self.modules = modules
        self.uses = uses
        self.folded: dict[str, str] = {}

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="self"), attr=norm),
                args=[ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr=conv)) as inner],
            ) if (
                self.modules.get(norm) is nn.BatchNorm2d
                and self.modules.get(conv) is nn.Conv2d
                and self.uses[norm] == self.uses[conv] == 1
            ):
                self.folded[norm] = conv
                return inner
        return node


def _module_of(statement: ast.Assign) -> type[nn.Module] | None:
    """Return which of the two modules a statement makes."""
    assert isinstance(statement.value, ast.Call)
    return _MODULES.get(ast.unparse(statement.value.func))


def _uses(node: ast.ClassDef) -> dict[str, int]:
    """Count how often each attribute is read outside of the constructor."""
    counts: dict[str, int] = {}
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name != "__init__":
            for child in ast.walk(method):
                match child:
                    case ast.Attribute(value=ast.Name(id="self"), attr=name):
                        counts[name] = counts.get(name, 0) + 1
    return counts


def _drop(node: ast.ClassDef, statement: ast.stmt) -> None:
    for child in ast.walk(node):
        if isinstance(child, ast.FunctionDef | ast.If) and statement in child.body:
            child.body.remove(statement)


def _give_bias(call: ast.expr) -> None:
    assert isinstance(call, ast.Call)
    call.keywords = [keyword for keyword in call.keywords if keyword.arg != "bias"]


def fold_weights(network: nn.Module, folded: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the tensors of a network whose normalisations are folded.

    Args:
        network: The network as it was trained; it is not changed.
        folded: Path of the convolution by the path of the normalisation that goes into it.
    """
    network = copy.deepcopy(network).eval()
    for norm_path, conv_path in folded.items():
        conv, norm = network.get_submodule(conv_path), network.get_submodule(norm_path)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        dtype = conv.weight.dtype
        network.set_submodule(conv_path, fuse_conv_bn_eval(conv.double(), norm.double()).to(dtype))
        network.set_submodule(norm_path, nn.Identity())
    return network.state_dict()
