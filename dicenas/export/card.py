"""The model card: what an exported network is, how good, and how to use it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dicenas.architecture import Architecture
from dicenas.export.model_source import Normalization, network_title
from dicenas.export.verify import TOLERANCE, Check

__all__ = ["model_card"]

_USAGE = {
    frozenset({"py", "safetensors"}): (
        "`model.py` needs torch alone:\n\n"
        "```python\nfrom model import WEIGHTS, build\n\nmodel = build(WEIGHTS).eval()\n```"
    ),
    frozenset({"py"}): "`model.py` needs torch alone; `build()` returns the network with fresh weights.",
    frozenset({"safetensors"}): (
        "```python\nimport dicenas.nets\nfrom safetensors.torch import load_file\n\n"
        'model = dicenas.nets.build(dicenas.Architecture.load("architecture.json"))\n'
        'model.load_state_dict(load_file("model.safetensors"))\n```'
    ),
}


def model_card(
    architecture: Architecture,
    formats: Iterable[str],
    metrics: Mapping[str, float | str],
    checks: Sequence[Check],
    class_names: Sequence[str] | None,
    normalization: Normalization | None,
) -> str:
    """Return the model card as Markdown."""
    height, width = architecture.image_size
    shape = f"(N, {architecture.in_channels}, {height}, {width})"
    lines = [f"# {network_title(architecture)}", "", f"Images `{shape}` to {architecture.num_classes} logits."]
    lines += ["", "## Use", "", _USAGE[frozenset(formats)], "", "## Input", ""]
    if normalization is None:
        lines.append("Normalize images as in training.")
    else:
        mean, std = (", ".join(f"{value:g}" for value in values) for values in normalization)
        lines.append(f"Pixels in 0 to 1, normalized channel by channel: mean ({mean}), standard deviation ({std}).")
    if class_names is not None:
        lines += ["", "## Classes", "", ", ".join(class_names)]
    lines += ["", "## Metrics", "", "| metric | value |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in metrics.items()]
    lines += ["", "## Architecture", "", f"Stem `{architecture.stem}`; candidate ops stage by stage:", ""]
    lines += [
        f"{number}. {', '.join(f'`{op}`' for op in stage)}" for number, stage in enumerate(architecture.stages, 1)
    ]
    lines += ["", "## Verification", ""]
    lines += [
        "Loaded in a fresh process and compared with the trained network in the same runtime; differences are relative "
        f"to the largest logit, at most {TOLERANCE:g} allowed.",
        "",
        "| runtime | input | difference |",
        "|---|---|---|",
    ]
    for check in checks:
        shape = " x ".join(map(str, check.input_shape))
        lines.append(f"| {check.runtime} | {shape} | {check.relative_difference:.1e} |")
    return "\n".join(lines) + "\n"
