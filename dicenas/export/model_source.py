"""Writes a network as one Python file that needs torch alone."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from dicenas.architecture import Architecture
from dicenas.export.printing import format_statements, with_comment
from dicenas.export.source_parts import SourceParts, source_parts
from dicenas.export.specialization import literal
from dicenas.nets import Backbone, Network, get_backbone, list_nets, net_architecture
from dicenas.ops import DimConv

__all__ = [
    "NetworkSource",
    "Normalization",
    "assemble",
    "description",
    "model_source",
    "network_source",
    "network_title",
]

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
    network = {name}(){cast}
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
        logits = model(torch.rand(1, {channels}, {height}, {width}{dtype}))
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
_DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
}


@dataclass(frozen=True)
class NetworkSource:
    """The source of a network.

    Attributes:
        text: The text of ``model.py``.
        folded: Path of the convolution by the path of the normalisation that is folded into it.
    """

    text: str
    folded: Mapping[str, str]


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
    return network_source(network, weights_name=weights_name, class_names=class_names, normalization=normalization).text


def network_source(
    network: Network,
    *,
    weights_name: str | None = None,
    class_names: Sequence[str] | None = None,
    normalization: Normalization | None = None,
    dtype: torch.dtype = torch.float32,
    fold_norms: bool = False,
    kernels: bool = True,
) -> NetworkSource:
    """Return what :func:`model_source` does, with more to choose.

    Args:
        network: The network; its weights do not matter.
        weights_name: Name of the file with the weights beside ``model.py``.
        class_names: Names of the classes in the order of the logits.
        normalization: Mean and standard deviation of the input's channels.
        dtype: Number type of weights, images and logits.
        fold_norms: Write the network without the normalisations that stand right behind a convolution.
        kernels: Whether it takes the kernels of this package where it is installed.

    Raises:
        ValueError: As :func:`model_source`.
    """
    parts = source_parts(network, fold_norms=fold_norms, kernels=kernels)
    parts.definitions.imports.update(_IMPORTS)
    architecture = network.architecture
    height, width = architecture.image_size
    text = _NETWORK.format(
        name=class_name(network),
        norms=norm_settings(network, parts),
        summary=f"Images ``(N, {architecture.in_channels}, H, W)`` to logits ``(N, {architecture.num_classes})``.",
        cast="" if dtype is torch.float32 else f".to({dtype})",
        weights="WEIGHTS" if weights_name else "",
        channels=architecture.in_channels,
        height=height,
        width=width,
        dtype="" if dtype is torch.float32 else f", dtype={dtype}",
    )
    usage = ["from model import build", "", "model = build().eval()"]
    if weights_name is not None:
        usage = ["from model import WEIGHTS, build", "", "model = build(WEIGHTS).eval()"]
    needs = "It needs torch alone"
    if kernels and any(isinstance(module, DimConv) for module in network.modules()):
        needs = "It needs torch alone and takes the kernels of dicenas where that is installed"
    constants = _constants(dtype, weights_name, class_names, normalization)
    docstring = description(network, needs, usage)
    return NetworkSource(assemble(docstring, parts, constants, text), parts.folded)


def class_name(network: Network) -> str:
    """Return the name of the network's class."""
    return type(get_backbone(network.architecture.backbone)).__name__


def norm_settings(network: Network, parts: SourceParts) -> str:
    """Return the statements that set what a family has different in its normalisations."""
    backbone = get_backbone(network.architecture.backbone)
    plain = (backbone.norm_eps, backbone.norm_momentum) == (Backbone.norm_eps, Backbone.norm_momentum)
    if plain or not parts.has_norms:
        return ""
    return _NORMS.format(eps=backbone.norm_eps, momentum=backbone.norm_momentum)


def description(network: Network, needs: str, usage: Sequence[str]) -> str:
    """Return the docstring of a network's module.

    Args:
        network: The network.
        needs: What the module needs, a sentence without its end.
        usage: Lines that show how to use it.
    """
    height, width = network.architecture.image_size
    lines = [
        f"{network_title(network.architecture)} for images of {height} x {width} pixels, exported by dicenas.",
        "",
        f"{needs}::",
        "",
        *(f"    {line}" if line else "" for line in usage),
        "",
    ]
    return "\n".join(lines)


def assemble(docstring: str, parts: SourceParts, constants: Sequence[ast.stmt], text: str) -> str:
    """Return the text of a module.

    Args:
        docstring: Its docstring.
        parts: The parts of the network.
        constants: Its constants.
        text: The class of the network and what follows it; ``STEM``, ``STAGES`` and ``HEAD`` stand for the parts.
    """
    expressions = {"STEM": parts.stem, "STAGES": parts.stages, "HEAD": parts.head}
    statements = ast.parse(text).body
    for node in ast.walk(statements[0]):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id in expressions:
            node.value = expressions[node.value.id]
    head = f'"""{docstring}"""\n\nfrom __future__ import annotations\n'
    body = format_statements([*constants, *parts.definitions.statements, *statements])
    return "\n".join((head, parts.definitions.import_text(), body))


def network_title(architecture: Architecture) -> str:
    """Return what an architecture is called in prose: its family, its width and, if published, its name."""
    title = f"{type(get_backbone(architecture.backbone)).__name__} of width {architecture.width:g}"
    size, classes = architecture.image_size, architecture.num_classes
    names = [name for name in list_nets() if net_architecture(name, classes, size) == architecture]
    return f"{title} ({names[0]})" if names else title


def _constants(
    dtype: torch.dtype,
    weights_name: str | None,
    class_names: Sequence[str] | None,
    normalization: Normalization | None,
) -> list[ast.stmt]:
    names = ", ".join(f'"{_DTYPES[stored]}": {stored}' for stored in (dtype, torch.int64))
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
