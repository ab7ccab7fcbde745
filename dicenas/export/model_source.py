"""Writes a network as one Python file that needs torch alone."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from dicenas.architecture import Architecture
from dicenas.export.construction import ConstructorCalls, rebuild
from dicenas.export.definitions import Definitions
from dicenas.export.printing import format_statements, with_comment
from dicenas.export.specialize import Specialization, call_expression, is_literal, literal, specialization_of
from dicenas.nets import Backbone, Network, get_backbone, list_nets, net_architecture
from dicenas.ops import DimConv

__all__ = ["Normalization", "model_source", "network_title"]

#: Mean and standard deviation of the channels of the input.
Normalization = tuple[Sequence[float], Sequence[float]]

_NETWORK = '''
class {name}(nn.Module):
    """{summary}"""

    def __init__(self) -> None:
        super().__init__()
        self.stem = STEM
        self.stages = STAGES
        self.head = HEAD
{norms}
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)))


def build(weights: str | Path | None = None) -> nn.Module:
    """Return the network, with the weights of a safetensors file or with fresh ones."""
    network = {name}()
    if weights is not None:
        network.load_state_dict(read_safetensors(weights))
    return network


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name."""
    data = bytearray(Path(path).read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    tensors = {{}}
    for name, entry in header.items():
        first, last = (start + offset for offset in entry["data_offsets"])
        tensor = torch.frombuffer(data[first:last], dtype=DTYPES[entry["dtype"]])
        tensors[name] = tensor.reshape(entry["shape"])
    return tensors


if __name__ == "__main__":
    model = build({weights}).eval()
    with torch.no_grad():
        logits = model(torch.rand(1, {channels}, {height}, {width}))
    print(tuple(logits.shape))
'''
_NORMS = """
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = {eps!r}, {momentum!r}
"""
_IMPORTS = (
    (None, "json"),
    ("pathlib", "Path"),
    (None, "torch"),
    ("torch", "Tensor"),
    ("torch", "nn"),
)
#: Element types as safetensors names them.
_DTYPES = {torch.float32: "F32", torch.int64: "I64"}


def model_source(
    network: Network,
    *,
    weights_name: str | None = None,
    class_names: Sequence[str] | None = None,
    normalization: Normalization | None = None,
) -> str:
    """Return the text of ``model.py`` for a network.

    Its classes are those of this package, rewritten for this one network; the classes of other packages' ops come
    along where their source is at hand and needs nothing but torch and their own package.

    Args:
        network: The network; its weights do not matter.
        weights_name: Name of the file with the weights beside ``model.py``.
        class_names: Names of the classes in the order of the logits.
        normalization: Mean and standard deviation of the input's channels.

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
    expressions = _Expressions(calls, specializations)
    values = (value for arguments in calls.values() for value in arguments.values())
    definitions = Definitions(specializations, {value for value in values if isinstance(value, str)})
    definitions.imports.update(_IMPORTS)
    parts = {"STEM": _block(rebuilt.stem, expressions, definitions)}
    parts["STAGES"] = _stages(rebuilt, expressions, definitions)
    parts["HEAD"] = _block(rebuilt.head, expressions, definitions)

    architecture = network.architecture
    height, width = architecture.image_size
    backbone = get_backbone(architecture.backbone)
    plain = (backbone.norm_eps, backbone.norm_momentum) == (Backbone.norm_eps, Backbone.norm_momentum)
    text = _NETWORK.format(
        name=type(backbone).__name__,
        norms="" if plain else _NORMS.format(eps=backbone.norm_eps, momentum=backbone.norm_momentum),
        summary=f"Images ``(N, {architecture.in_channels}, H, W)`` to logits ``(N, {architecture.num_classes})``.",
        weights="WEIGHTS" if weights_name else "",
        channels=architecture.in_channels,
        height=height,
        width=width,
    )
    statements = ast.parse(text).body
    for node in ast.walk(statements[0]):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            node.value = parts[node.value.id]
    constants = _constants(weights_name, class_names, normalization)
    head = f'"""{_docstring(network, weights_name)}"""\n\nfrom __future__ import annotations\n'
    body = format_statements([*constants, *definitions.statements, *statements])
    return "\n".join((head, definitions.import_text(), body))


def network_title(architecture: Architecture) -> str:
    """Return what an architecture is called in prose: its family, its width and, if published, its name."""
    title = f"{type(get_backbone(architecture.backbone)).__name__} of width {architecture.width:g}"
    size, classes = architecture.image_size, architecture.num_classes
    names = [name for name in list_nets() if net_architecture(name, classes, size) == architecture]
    return f"{title} ({names[0]})" if names else title


def _docstring(network: Network, weights_name: str | None) -> str:
    architecture = network.architecture
    height, width = architecture.image_size
    usage = ["from model import build", "", "model = build().eval()"]
    if weights_name is not None:
        usage = ["from model import WEIGHTS, build", "", "model = build(WEIGHTS).eval()"]
    needs = "It needs torch alone"
    if any(isinstance(module, DimConv) for module in network.modules()):
        needs = "It needs torch alone and takes the kernels of dicenas where that is installed"
    lines = [
        f"{network_title(architecture)} for images of {height} x {width} pixels, exported by dicenas.",
        "",
        f"{needs}::",
        "",
        *(f"    {line}" if line else "" for line in usage),
        "",
    ]
    return "\n".join(lines)


def _constants(
    weights_name: str | None, class_names: Sequence[str] | None, normalization: Normalization | None
) -> list[ast.stmt]:
    names = ", ".join(f'"{name}": {dtype}' for dtype, name in _DTYPES.items())
    constants = ast.parse(f"DTYPES = {{{names}}}").body
    if weights_name is not None:
        constants += ast.parse(f"WEIGHTS = Path(__file__).with_name({weights_name!r})").body
    if normalization is not None:
        mean, std = (literal(tuple(map(float, values))) for values in normalization)
        for name, values in (("MEAN", mean), ("STD", std)):
            constants.append(ast.Assign([ast.Name(name, ast.Store())], values, lineno=0))
        with_comment(constants[-2], "Normalization of the input: (image - MEAN) / STD, channel by channel.")
    if class_names is not None:
        names_of_classes = literal(tuple(map(str, class_names)))
        constants.append(ast.Assign([ast.Name("CLASS_NAMES", ast.Store())], names_of_classes, lineno=0))
    return constants


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
    """

    def __init__(self, calls: ConstructorCalls, specializations: dict[type[nn.Module], Specialization]) -> None:
        self._calls = calls
        self._specializations = specializations

    def of_module(self, module: nn.Module) -> ast.expr:
        """Return the expression that constructs a module."""
        cls = type(module)
        if cls is nn.Sequential:
            if [name for name, _ in module.named_children()] != [str(i) for i in range(len(list(module.children())))]:
                raise ValueError("an nn.Sequential with names of its own")
            return _call_of_nn("Sequential", map(self.of_module, module.children()))
        arguments = {name: self._of_value(value, name, cls) for name, value in self._calls[module].items()}
        if cls in self._specializations:
            return call_expression(ast.Name(cls.__name__, ast.Load()), self._specializations[cls], arguments)
        if getattr(nn, cls.__name__, None) is not cls:
            raise ValueError(f"{cls.__module__}.{cls.__qualname__} is no class of torch.nn")
        return call_expression(_nn(cls.__name__), Specialization(inspect.signature(cls)), arguments)

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
