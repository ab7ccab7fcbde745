"""The model card: what an exported network is, how good, and how to use it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from dicenas.architecture import Architecture
from dicenas.cost import device_name
from dicenas.export.formats import FORMATS, tolerance
from dicenas.export.model_source import Normalization, network_title
from dicenas.export.verify import Verification
from dicenas.nets import get_backbone

__all__ = ["CardFacts", "model_card"]


@dataclass(frozen=True)
class CardFacts:
    """What a model card tells.

    Attributes:
        architecture: The network.
        formats: The formats that it was exported in.
        metrics: What is known of it, units in the names.
        verification: What was found of the export.
        class_names: Names of the classes in the order of the logits.
        normalization: Mean and standard deviation of the input's channels.
        dtype: Number type of weights, images and logits.
        fold_bn: Whether normalisations are folded.
        any_size: Whether programs take images of any size.
        timm_variant: Name under which timm knows it.
        has_drawing: Whether the folder holds ``architecture.svg``.
        trained: Whether its weights were trained.
    """

    architecture: Architecture
    formats: tuple[str, ...]
    metrics: Mapping[str, float | str]
    verification: Verification
    class_names: Sequence[str] | None
    normalization: Normalization | None
    dtype: str
    fold_bn: bool
    any_size: bool
    timm_variant: str
    has_drawing: bool
    trained: bool


def model_card(facts: CardFacts) -> str:
    """Return the model card as Markdown."""
    architecture = facts.architecture
    height, width = architecture.image_size
    shape = f"(N, {architecture.in_channels}, {height}, {width})"
    sections = [
        f"# {network_title(architecture)}",
        f"Images `{shape}` to {architecture.num_classes} logits, {facts.dtype}"
        + (", normalisations folded into the convolutions." if facts.fold_bn else "."),
        *([] if facts.trained else ["**The weights are fresh: this network has not been trained.**"]),
        *_architecture(facts),
        "## Metrics",
        _table(("metric", "value"), facts.metrics.items()),
        *_use(facts),
        "## Input",
        _input(facts.normalization),
    ]
    if facts.class_names is not None:
        sections += ["## Classes", _table(("logit", "class"), enumerate(facts.class_names))]
    return "\n\n".join([*sections, *_verification(facts)]) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _architecture(facts: CardFacts) -> list[str]:
    """Return the drawing, and the network stage by stage."""
    layout = get_backbone(facts.architecture.backbone).layout(facts.architecture)
    rows: list[Sequence[object]] = [
        ("stem", *_size(layout.stem.out_channels, layout.stem.size), facts.architecture.stem)
    ]
    for number, blocks in enumerate(layout.stages, 1):
        ops = ", ".join(f"`{block.op}`" for block in blocks)
        rows.append((f"stage {number}", *_size(blocks[-1].out_channels, blocks[-1].size), ops))
    rows.append(("head", layout.head.out_channels, "", "classifier"))
    drawing = ["![stem, stages and head](architecture.svg)"] if facts.has_drawing else []
    return ["## Architecture", *drawing, _table(("", "channels", "H x W", "blocks"), rows)]


def _size(channels: int, size: tuple[int, int]) -> tuple[int, str]:
    return channels, f"{size[0]} x {size[1]}"


def _use(facts: CardFacts) -> list[str]:
    """Return how each of the formats is loaded."""
    height, width = facts.verification.image_size
    image = f"`({facts.architecture.in_channels}, {height}, {width})`"
    sizes = "any number of images of any size" if facts.any_size else f"any number of images {image}"
    cast = "" if facts.dtype == "float32" else f".to(torch.{facts.dtype})"
    texts = {
        "py": (
            "`model.py` is source that needs torch alone, and takes images of any size."
            if "safetensors" in facts.formats
            else "`model.py` is source that needs torch alone; `build()` returns the network with fresh weights.",
            "from model import WEIGHTS, build\n\nmodel = build(WEIGHTS).eval()"
            if "safetensors" in facts.formats
            else "from model import build\n\nmodel = build()",
        ),
        "safetensors": (
            "`model.safetensors` holds the weights, under the names that `model.py` gives them.",
            'from safetensors.torch import load_file\n\nweights = load_file("model.safetensors")',
        ),
        "onnx": (
            f"`model.onnx`, of standard operators, takes {sizes}.",
            "import onnxruntime\n\n"
            'session = onnxruntime.InferenceSession("model.onnx")\n'
            '(logits,) = session.run(["logits"], {"image": images})',
        ),
        "pt2": (
            f"`model.pt2`, a program of torch.export, takes {sizes}.",
            'import torch\n\nmodel = torch.export.load("model.pt2").module()',
        ),
        "torchscript": (
            f"`model.ts`, traced TorchScript, takes {sizes}. torch has declared TorchScript "
            "deprecated: take `pt2` where you can.",
            'import torch\n\nmodel = torch.jit.load("model.ts")',
        ),
        "timm": (
            "`timm/` is a folder for timm; it needs nothing of dicenas, and takes images of any size.",
            'import sys\n\nsys.path.insert(0, "timm")\nimport timm\nimport timm_model  # registers '
            f'{facts.timm_variant}\n\nmodel = timm.create_model("{facts.timm_variant}", pretrained=True){cast}.eval()',
        ),
    }
    sections = ["## Use"]
    for name in FORMATS:
        if name in facts.formats:
            text, code = texts[name]
            sections += [text, f"```python\n{code}\n```"]
    return sections


def _input(normalization: Normalization | None) -> str:
    if normalization is None:
        return "Normalize images as in training."
    mean, std = (", ".join(f"{value:g}" for value in values) for values in normalization)
    return f"Pixels in 0 to 1, normalized channel by channel: mean ({mean}), standard deviation ({std})."


def _verification(facts: CardFacts) -> list[str]:
    found = facts.verification
    allowed = tolerance(facts.dtype, facts.fold_bn)
    sections = [
        "## Verification",
        "Loaded in a fresh process without dicenas (but for the runtime of that name) and compared with the network "
        f"itself; differences are relative to the largest logit. Allowed are {allowed:g}, or four times what rounding "
        "alone does to the network's logits, where that is more.",
        _table(
            ("runtime", "input", "difference", "allowed"),
            [
                (
                    check.runtime,
                    " x ".join(map(str, check.input_shape)),
                    f"{check.relative_difference:.1e}",
                    f"{check.tolerance:.1e}",
                )
                for check in found.checks
            ],
        ),
    ]
    if found.latency_ms:
        height, width = found.image_size
        base = found.latency_ms["torch"]
        sections += [
            f"Time for one image of {height} x {width}, medians of runs in turns on one thread of "
            f"{device_name(torch.device('cpu'))}, torch {torch.__version__}:",
            _table(
                ("runtime", "latency_ms", "relative to torch"),
                [(name, f"{ms:.2f}", f"{ms / base:.2f}") for name, ms in found.latency_ms.items()],
            ),
        ]
    return sections
