"""NNI model spaces over the backbones: what a :class:`~dicenas.space.SpaceSpec` leaves open as NNI mutables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dicenas.search_spaces._nni  # isort: skip  # noqa: F401  (before anything else of NNI)
import nni
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.space import current_model, model_context
from torch import Tensor, nn

from dicenas.architecture import Architecture
from dicenas.nets import build, get_backbone
from dicenas.space import DEFAULT_OPS, SpaceSpec

__all__ = ["BackboneSpace", "MobileNetV2Space", "ShuffleNetV2Space", "make_space"]


class BackboneSpace(ModelSpace):
    """The NNI model space of a backbone family; its labels are those of ``spec.choices``.

    Built freely it is the deepest network of the first width, with a ``LayerChoice`` wherever a block has several
    candidates. Built under ``model_context(sample)``, as :meth:`freeze` does, it is the plain network that
    ``dicenas.build(spec.architecture(sample))`` gives, with the same keys and weights of its own.

    A candidate is a whole block, not only the op inside: the DiCE unit brings its own down-sampling unit, and
    ``skip`` leaves an inverted residual out altogether.

    Args:
        backbone: Name of a backbone family.
        ops: Candidate ops; an op's name stands for all its kernel sizes.
        widths: Width multipliers; the backbone's usual ones when empty.
        depths: Depth choices of each stage; the backbone's usual ones when empty.
        stems: Stems, of ``"imagenet"`` and ``"small"``.
        resolutions: Native image sizes in pixels.
        num_classes: Classes of the classifier.
        in_channels: Channels of the image.

    Attributes:
        spec: The space as data.
        architecture: What a frozen space is, ``None`` while it is free.
    """

    def __init__(
        self,
        backbone: str,
        ops: Sequence[str] = DEFAULT_OPS,
        widths: Sequence[float] = (),
        depths: Sequence[Sequence[int]] = (),
        stems: Sequence[str] = ("imagenet",),
        resolutions: Sequence[int] = (224,),
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.spec = SpaceSpec(
            backbone,
            tuple(ops),
            tuple(widths),
            tuple(tuple(stage) for stage in depths),
            tuple(stems),
            tuple(resolutions),
            num_classes,
            in_channels,
        )
        self.architecture: Architecture | None = None
        context = current_model()
        if context is None:
            self._build_free()
        else:
            self.architecture = self.spec.architecture(self._own_labels(context))
            network = build(self.architecture)
            self.stem, self.stages, self.head = network.stem, network.stages, network.head

    def _own_labels(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        # A sample of NNI may hold the evaluator's labels too, and a context a mark of its own.
        return {choice.label: sample[choice.label] for choice in self.spec.choices if choice.label in sample}

    def _build_free(self) -> None:
        spec = self.spec
        backbone = get_backbone(spec.backbone)
        layout = spec.full_layout(spec.widths[0], spec.stems[0], spec.resolutions[0])
        blocks = {
            f"s{stage}_b{position}": block
            for stage, stage_blocks in enumerate(layout.stages, 1)
            for position, block in enumerate(stage_blocks)
        }
        for choice in spec.choices:
            if choice.label not in blocks:
                self.add_mutable(nni.choice(choice.label, list(choice.values)))

        def slot(label: str) -> nn.Module:
            candidates = {op: backbone.build_block(blocks[label].with_op(op)) for op in spec.candidates(label)}
            return LayerChoice(candidates, label=label) if len(candidates) > 1 else candidates.popitem()[1]

        self.stem = backbone.build_block(layout.stem)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(*(slot(f"s{stage}_b{position}") for position in range(len(stage_blocks))))
                for stage, stage_blocks in enumerate(layout.stages, 1)
            )
        )
        self.head = backbone.build_block(layout.head)

    def freeze(self, sample: Mapping[str, Any]) -> BackboneSpace:
        """Return the network of a sample: a new one that shares no parameter with any other.

        Raises:
            ValueError: An active label is missing, or a value is not among the choices.
        """
        with model_context(self._own_labels(sample)):
            return make_space(self.spec)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stages(self.stem(x)))
        return logits


class ShuffleNetV2Space(BackboneSpace):
    """ShuffleNetV2 units with a candidate op each, and DiCENet's head (DiCENet, arXiv 1906.03516, Figure 4).

    DiCENet is the point with ``dice_k3`` in every block and depths 3, 7, 3. Arguments as :class:`BackboneSpace`.
    """

    def __init__(
        self,
        ops: Sequence[str] = DEFAULT_OPS,
        widths: Sequence[float] = (),
        depths: Sequence[Sequence[int]] = (),
        stems: Sequence[str] = ("imagenet",),
        resolutions: Sequence[int] = (224,),
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__("shufflenetv2", ops, widths, depths, stems, resolutions, num_classes, in_channels)


class MobileNetV2Space(BackboneSpace):
    """Inverted residuals with a candidate op each (MobileNetV2, arXiv 1801.04381).

    MobileNetV2 is the point with ``separable_k3`` in every block and its depths. Arguments as
    :class:`BackboneSpace`.
    """

    def __init__(
        self,
        ops: Sequence[str] = DEFAULT_OPS,
        widths: Sequence[float] = (),
        depths: Sequence[Sequence[int]] = (),
        stems: Sequence[str] = ("imagenet",),
        resolutions: Sequence[int] = (224,),
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__("mobilenetv2", ops, widths, depths, stems, resolutions, num_classes, in_channels)


_SPACES: dict[str, type[BackboneSpace]] = {"shufflenetv2": ShuffleNetV2Space, "mobilenetv2": MobileNetV2Space}


def make_space(spec: SpaceSpec) -> BackboneSpace:
    """Return the NNI model space of a :class:`~dicenas.space.SpaceSpec`."""
    arguments = spec.to_dict()
    kind = _SPACES.get(spec.backbone)
    if kind is None:
        return BackboneSpace(**arguments)
    del arguments["backbone"]
    return kind(**arguments)
