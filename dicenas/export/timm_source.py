"""Writes a network as a model of timm: a folder that ``timm.create_model("local-dir:...")`` reads."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from torch import nn

from dicenas.export.model_source import (
    Normalization,
    assemble,
    class_name,
    description,
    norm_settings,
)
from dicenas.export.source_parts import source_parts
from dicenas.nets import Network, get_backbone

__all__ = ["timm_config", "timm_source", "timm_variant"]

_IMPORTS = (
    ("pathlib", "Path"),
    ("timm.models", "build_model_with_cfg"),
    ("timm.models", "checkpoint_seq"),
    ("timm.models", "generate_default_cfgs"),
    ("timm.models", "register_model"),
    ("timm.models._features", "feature_take_indices"),
    ("torch", "Tensor"),
    ("torch", "nn"),
    ("typing", "Any"),
)

_NETWORK = '''
class {name}(nn.Module):
    """Images ``(N, C, H, W)`` to logits ``(N, num_classes)``, with the interface of timm's models."""

    def __init__(
        self,
        num_classes: int = {num_classes},
        in_chans: int = {in_chans},
        drop_rate: float | None = None,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        self.stem = STEM
        self.stages = STAGES
        self.head = HEAD
        if in_chans != {in_chans}:
            {first_conv} = nn.Conv2d(in_chans, {first_arguments})
{dropout}{norms}
        self.num_classes = {num_classes}
        self.in_chans = in_chans
        self.num_features = {num_features}
        self.head_hidden_size = {head_hidden_size}
        self.feature_info = {feature_info}
        self.grad_checkpointing = False
        self.global_pool = "avg"
        if num_classes != {num_classes} or global_pool != "avg":
            self.reset_classifier(num_classes, global_pool)

    def get_classifier(self) -> nn.Module:
        return self.head.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh classifier in the head; none for 0 classes, no head at all for the pooling ``""``."""
        if global_pool not in (None, "", "avg"):
            raise ValueError(f"global_pool {{global_pool!r}} should be 'avg' or ''")
        self.global_pool = self.global_pool if global_pool is None else global_pool
        self.num_classes = num_classes
        classifier = {classifier} if num_classes else nn.Identity()
        self.head.classifier = classifier.to(next(self.parameters()))
        self.head.classifier.train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {{
            "stem": r"^stem",
            "blocks": r"^stages\\.(\\d+)" if coarse else r"^stages\\.(\\d+)\\.(\\d+)",
        }}

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the last map and the maps behind the stages of ``indices``."""
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt {{output_fmt!r}}: the maps are NCHW")
        taken, last = feature_take_indices(len(self.stages), indices)
        maps = []
        x = self.stem(x)
        for number, stage in enumerate(self.stages):
            if stop_early and number > last:
                break
            x = self._run(stage, x)
            if number in taken:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    def _run(self, blocks: nn.Module, x: Tensor) -> Tensor:
        if self.grad_checkpointing:
            return checkpoint_seq(blocks, x)
        return blocks(x)

    def forward_features(self, x: Tensor) -> Tensor:
        return self._run(self.stages, self.stem(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if not self.global_pool:
            return x
        return self.head.pre_logits(x) if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


default_cfgs = generate_default_cfgs({{"{variant}": CONFIG}})


@register_model
def {variant}(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """{title}."""
    return build_model_with_cfg(
        {name},
        "{variant}",
        pretrained,
        feature_cfg={{"out_indices": {out_indices}, "flatten_sequential": True}},
        **kwargs,
    )
'''


def timm_variant(network: Network) -> str:
    """Return the name under which a network is registered with timm."""
    architecture = network.architecture
    return f"dicenas_{architecture.backbone}_{architecture.hash[:8]}"


def timm_config(
    network: Network, normalization: Normalization | None, class_names: Sequence[str] | None
) -> dict[str, Any]:
    """Return what timm keeps in the ``config.json`` of a model's folder.

    Args:
        network: The network.
        normalization: Mean and standard deviation of the input's channels; none are 0 and 1.
        class_names: Names of the classes in the order of the logits.
    """
    architecture = network.architecture
    channels = architecture.in_channels
    mean, std = normalization or ((0.0,) * channels, (1.0,) * channels)
    config: dict[str, Any] = {
        "architecture": timm_variant(network),
        "num_classes": architecture.num_classes,
        "num_features": _head_block(network).in_channels,
        "pretrained_cfg": {
            "input_size": [channels, *architecture.image_size],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "mean": list(map(float, mean)),
            "std": list(map(float, std)),
            "num_classes": architecture.num_classes,
            "pool_size": list(_head_block(network).in_size),
            "first_conv": _first_conv(network)[0],
            "classifier": "head.classifier",
        },
    }
    if class_names is not None:
        config["label_names"] = list(map(str, class_names))
    return config


def timm_source(network: Network, config: dict[str, Any], *, fold_norms: bool = False) -> str:
    """Return the text of ``timm_model.py``: the network with timm's interface, which registers itself.

    Args:
        network: The network; its weights do not matter.
        config: What :func:`timm_config` gives.
        fold_norms: Write it without the normalisations that stand right behind a convolution.

    Raises:
        ValueError: The source of an op cannot stand alone, or the head has no classifier that could be replaced.
    """
    parts = source_parts(network, fold_norms=fold_norms)
    parts.definitions.imports.update(_IMPORTS)
    _split_head(parts.definitions.statements, type(network.head).__name__)
    backbone = get_backbone(network.architecture.backbone)
    layout = backbone.layout(network.architecture)
    classifier = getattr(network.head, "classifier", None)
    if isinstance(classifier, nn.Linear):
        hidden, made = classifier.in_features, f"nn.Linear({classifier.in_features}, num_classes)"
    elif isinstance(classifier, nn.Conv2d) and classifier.kernel_size == (1, 1):
        hidden, made = classifier.in_channels, f"nn.Conv2d({classifier.in_channels}, num_classes, 1)"
    else:
        raise ValueError(f"{type(network.head).__name__} has no classifier that timm could replace")
    path, first = _first_conv(network)
    reduction = layout.stem.stride
    feature_info = []
    for number, blocks in enumerate(layout.stages):
        for block in blocks:
            reduction *= block.stride
        feature_info.append({"num_chs": blocks[-1].out_channels, "reduction": reduction, "module": f"stages.{number}"})
    bias = "" if fold_norms or first.bias is not None else ", bias=False"
    variant = timm_variant(network)
    title = description(network, "", ()).partition("\n")[0].removesuffix(".")
    text = _NETWORK.format(
        name=class_name(network),
        variant=variant,
        title=title,
        num_classes=network.architecture.num_classes,
        in_chans=network.architecture.in_channels,
        num_features=layout.head.in_channels,
        head_hidden_size=hidden,
        classifier=made,
        feature_info=feature_info,
        out_indices=tuple(range(len(layout.stages))),
        first_conv="self." + ".".join(path.split(".")).replace(".0", "[0]"),
        first_arguments=f"{first.out_channels}, {first.kernel_size[0]}, {first.stride[0]}, {first.padding[0]}{bias}",
        norms=norm_settings(network, parts),
        dropout=_DROPOUT if hasattr(network.head, "dropout") else "",
    )
    constants = ast.parse(f"CONFIG = {_python(config, variant)}").body
    usage = ["import timm", "import timm_model", "", f'model = timm.create_model("{variant}", pretrained=True)']
    return assemble(description(network, "It needs torch and timm", usage), parts, constants, text)


_DROPOUT = """        if drop_rate is not None:
            self.head.dropout.p = drop_rate
"""


def _python(config: dict[str, Any], variant: str) -> str:
    entries = dict(config["pretrained_cfg"])
    if "label_names" in config:
        entries["label_names"] = config["label_names"]
    entries = {name: tuple(value) if isinstance(value, list) else value for name, value in entries.items()}
    weights = 'str(Path(__file__).with_name("model.safetensors"))'
    return "{" + f'"file": {weights}, ' + repr(entries)[1:]


def _head_block(network: Network) -> Any:
    return get_backbone(network.architecture.backbone).layout(network.architecture).head


def _first_conv(network: Network) -> tuple[str, nn.Conv2d]:
    return next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))


def _split_head(statements: Sequence[ast.stmt], name: str) -> None:
    """Give the class of the head a method that stops in front of the classifier."""
    (head,) = (node for node in statements if isinstance(node, ast.ClassDef) and node.name == name)
    forward = next(node for node in head.body if isinstance(node, ast.FunctionDef) and node.name == "forward")

    class Remover(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.expr:
            self.generic_visit(node)
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr="classifier"), args=[x]):
                    return x
            return node

    method = Remover().visit(ast.parse(ast.unparse(forward)).body[0])
    method.name = "pre_logits"
    head.body.append(method)
