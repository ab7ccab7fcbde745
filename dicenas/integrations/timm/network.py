"""A network of this package with the interface of timm's models."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.nn import functional as F

from dicenas.architecture import Architecture
from dicenas.nets import build, get_backbone

__all__ = ["ClassifierHead", "TimmNetwork"]


#: Poolings of timm that keep the number of channels.
_POOLINGS = ("avg", "max", "avgmax", "fast", "")


class ClassifierHead(nn.Module):
    """A network's head, taken apart as timm's models are: pooling, the layers behind it, dropout, classifier.

    Args:
        head: The head of a network of :func:`dicenas.build`; its layers keep their names.
        drop_rate: Dropout probability in front of the classifier.
        pool_type: ``"avg"``, ``"max"``, ``"avgmax"``, timm's ``"fast"``, or ``""`` for none: the logits are then a map.
    """

    classifier: nn.Module

    def __init__(self, head: nn.Module, drop_rate: float, pool_type: str) -> None:
        super().__init__()
        for name, child in head.named_children():
            if name != "dropout":
                self.add_module(name, child)
        self.drop_rate = drop_rate
        self.set_pool(pool_type)

    def set_pool(self, pool_type: str) -> None:
        """Change the pooling.

        Raises:
            ValueError: There is no such pooling; one that changes the number of channels, as timm's ``catavgmax``, does
                not fit the layers behind.
        """
        if pool_type not in _POOLINGS:
            raise ValueError(f"global_pool {pool_type!r} should be one of {', '.join(map(repr, _POOLINGS))}")
        self.global_pool = SelectAdaptivePool2d(pool_type=pool_type).train(self.training)

    def features(self, x: Tensor) -> Tensor:
        """Return the map that is pooled: some heads have a convolution in front."""
        conv = getattr(self, "conv", None)
        return x if conv is None else conv(x)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = self.global_pool.pool_type != ""
        x = self.global_pool(x)
        for name in ("expand", "hidden", "act"):
            if name in self._modules:
                x = _over_channels(getattr(self, name), x)
        x = F.dropout(x, self.drop_rate, self.training)
        if not pre_logits:
            x = _over_channels(self.classifier, x)
        return x.flatten(1) if pooled else x


def _over_channels(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a layer to the channels of each pixel of ``(N, C, H, W)``."""
    if isinstance(layer, nn.Linear):
        return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return layer(x)


class TimmNetwork(nn.Module):
    """A network of :func:`dicenas.build` with the interface of timm's models.

    It has the same ``state_dict``, and the same outputs: ``(N, C, H, W)`` to ``(N, num_classes)``. Trained with timm,
    a network goes back by ``dicenas.build(model.architecture).load_state_dict(model.state_dict())``.

    Args:
        architecture: What to build.
        num_classes: Classes; 0 for features without a classifier.
        in_chans: Channels of the image.
        img_size: Native size of the image, an int or ``(H, W)``; by default the architecture's. Images of other sizes
            work too.
        drop_rate: Dropout probability in front of the classifier; by default the published one.
        global_pool: ``"avg"``, ``"max"``, ``"avgmax"``, or ``""`` for none.
        device: Where the parameters are.
        dtype: Their type.

    Raises:
        ValueError: An argument that no network can have.
    """

    def __init__(
        self,
        architecture: Architecture,
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: int | tuple[int, int] | None = None,
        drop_rate: float | None = None,
        global_pool: str = "avg",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        architecture = architecture.replace(
            num_classes=num_classes or 1, in_channels=in_chans, image_size=img_size or architecture.image_size
        )
        network = build(architecture)
        self._layout = get_backbone(architecture.backbone).checked_layout(architecture)
        self.architecture = architecture
        self.in_chans = in_chans
        self.drop_rate = self._layout.head.dropout if drop_rate is None else drop_rate
        self.grad_checkpointing = False
        self.stem, self.stages = network.stem, network.stages
        self.head = ClassifierHead(network.head, self.drop_rate, global_pool)
        self.num_classes = num_classes
        self._measure()
        self.feature_info = self._feature_info()
        if num_classes == 0:
            self.reset_classifier(0)
        self.to(device=device, dtype=dtype)

    def _measure(self) -> None:
        """Set the numbers of features before pooling and before the classifier, which timm's users ask for."""
        classifier, conv = self.head.classifier, getattr(self.head, "conv", None)
        if isinstance(classifier, nn.Conv2d):
            self.head_hidden_size = classifier.in_channels
        elif isinstance(classifier, nn.Linear):
            self.head_hidden_size = classifier.in_features
        self.num_features = self._layout.head.in_channels if conv is None else conv.conv.out_channels

    def _feature_info(self) -> list[dict[str, Any]]:
        """Return the last map of each size, as timm names it."""
        found: dict[int, dict[str, Any]] = {}
        for name, channels, reduction in self._maps():
            found[reduction] = {"num_chs": channels, "reduction": reduction, "module": name}
        return list(found.values())

    def _maps(self) -> Iterator[tuple[str, int, int]]:
        """Yield the name, channels and reduction of the output of each part of the stem and of each stage."""
        stem = self._layout.stem
        reduction = stem.stride
        for name in self._stem_parts():
            # Of a stem's two reductions the convolution has the first.
            pooled = stem.stride == 4 and name == "stem.0"
            yield name, stem.out_channels, 2 if pooled else reduction
        for number, blocks in enumerate(self._layout.stages):
            for block in blocks:
                reduction *= block.stride
            yield f"stages.{number}", blocks[-1].out_channels, reduction

    def _stem_parts(self) -> dict[str, nn.Module]:
        if isinstance(self.stem, nn.Sequential):
            return {f"stem.{name}": part for name, part in self.stem.named_children()}
        return {"stem": self.stem}

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return the groups of parameters for layer-wise learning rates: stem, stages or blocks, and the rest."""
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep the inputs of blocks alone in training, and compute the rest again in the backward pass."""
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """Return the last layer: a linear one, or a point-wise convolution in DiCENet."""
        return self.head.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh classifier in place of the present one; 0 classes for none.

        Args:
            num_classes: Number of classes.
            global_pool: Pooling; the present one by default.

        Raises:
            ValueError: A number of classes or a pooling that there is not.
        """
        if num_classes < 0:
            raise ValueError(f"num_classes {num_classes} should be at least 0")
        if global_pool is not None:
            self.head.set_pool(global_pool)
        classifier: nn.Module = nn.Identity()
        if num_classes:
            like = next(self.parameters())
            block = dataclasses.replace(self._layout.head, out_channels=num_classes)
            head = get_backbone(self.architecture.backbone).build_block(block)
            classifier = head.get_submodule("classifier").to(like.device, like.dtype)
            self.architecture = self.architecture.replace(num_classes=num_classes)
        self.head.classifier = classifier.train(self.training)
        self.num_classes = num_classes

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the features and the maps of ``feature_info``.

        Args:
            x: Images ``(N, C, H, W)``.
            indices: Which maps: the last n, those with these indices, or all.
            norm: For timm's sake: the maps have their normalisations behind them anyway.
            stop_early: Compute nothing behind the last map, with ``intermediates_only``.
            output_fmt: ``"NCHW"``.
            intermediates_only: Return the maps alone.

        Raises:
            ValueError: Another format, or ``stop_early`` without ``intermediates_only``.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt {output_fmt!r}: the maps are NCHW")
        if stop_early and not intermediates_only:
            raise ValueError("stop_early computes no features: it needs intermediates_only")
        taken, last = feature_take_indices(len(self.feature_info), indices)
        wanted = {self.feature_info[index]["module"] for index in taken}
        end = self.feature_info[last]["module"]
        maps = []
        for name, part in self._parts():
            x = self._run(part, x) if name.startswith("stages") else part(x)
            if name in wanted:
                maps.append(x)
            if stop_early and name == end:
                break
        return maps if intermediates_only else (self.head.features(x), maps)

    def _parts(self) -> Iterator[tuple[str, nn.Module]]:
        yield from self._stem_parts().items()
        for name, stage in self.stages.named_children():
            yield f"stages.{name}", stage

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages behind the last map that is asked for, and the head; return the maps' indices."""
        taken, last = feature_take_indices(len(self.feature_info), indices)
        names = [name for name, _ in self._parts()]
        kept = names[: names.index(self.feature_info[last]["module"]) + 1]
        stages = sum(name.startswith("stages") for name in kept)
        if prune_head or stages < len(self.stages):
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
            for name in ("conv", "expand", "hidden", "act"):
                if name in self.head._modules:
                    delattr(self.head, name)
            self.reset_classifier(0, "")
        self.stages = self.stages[:stages]
        return list(taken)

    def _run(self, blocks: nn.Module, x: Tensor) -> Tensor:
        if self.grad_checkpointing:
            return checkpoint_seq(blocks, x, flatten=blocks is self.stages)
        return blocks(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the map ``(N, num_features, H / 32, W / 32)`` that the head pools."""
        return self.head.features(self._run(self.stages, self.stem(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits of :meth:`forward_features`, or what the classifier would take: ``(N, head_hidden_size)``."""
        return self.head(x, pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))
