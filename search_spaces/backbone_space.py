"""NNI model spaces over the backbones: what a :class:`~dicenas.space.SpaceSpec` leaves open as NNI mutables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict, Unpack

import dicenas.search_spaces._nni  # isort: skip  # noqa: F401  (before anything else of NNI)
import nni
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.space import current_model, model_context
from torch import Tensor, nn

from dicenas.architecture import Architecture
from dicenas.nets import build, get_backbone
from dicenas.search_spaces.one_shot import copy_weights, module_name, share_weights
from dicenas.space import SpaceSpec

__all__ = ["BackboneSpace", "BlockChoice", "SpaceArguments", "make_space"]


class SpaceArguments(TypedDict, total=False):
    """What a space over one backbone takes; see :class:`~dicenas.space.SpaceSpec`."""

    ops: Sequence[str]
    widths: Sequence[float]
    depths: Sequence[Sequence[int]]
    stems: Sequence[str]
    resolutions: Sequence[int]
    num_classes: int
    in_channels: int
    expansions: Sequence[float]
    activations: Sequence[str]
    block_ops: Mapping[str, Sequence[str]]


class BlockChoice(LayerChoice):
    """NNI's ``LayerChoice`` between the blocks of one place, by their names.

    A module's name may hold no point, and that of a block may (``separable_k3_e2.5``): the modules have a comma there.
    """

    def add_module(self, name: str, module: nn.Module | None) -> None:
        super().add_module(module_name(name), module)

    def __getitem__(self, name: int | str) -> nn.Module:
        if name not in self.names:
            raise KeyError(f"{name!r} is none of the blocks {self.names}")
        return self.get_submodule(module_name(str(name)))

    def __setitem__(self, name: int | str, module: nn.Module) -> None:
        self[name]  # there is one to replace
        setattr(self, module_name(str(name)), module)

    def __iter__(self) -> Iterator[nn.Module]:
        return (self[name] for name in self.names)

    def forward(self, x: Tensor) -> Tensor:
        # As LayerChoice: the choice that a free space makes when it is run as it is.
        return self[self._dry_run_choice](x)


class BackboneSpace(ModelSpace):
    """The NNI model space of a backbone family; its labels are those of ``spec.choices``.

    Built freely it is the deepest network of the first width, with a :class:`BlockChoice` wherever a block has several
    candidates. Built under ``model_context(sample)``, as :meth:`freeze` does, it is the plain network that
    ``dicenas.build(spec.architecture(sample))`` gives, with the same keys and weights of its own.

    A candidate is a whole block, not only the op inside: the DiCE unit brings its own down-sampling unit, and
    ``skip`` leaves an inverted residual out altogether.

    Args:
        backbone: Name of a backbone family.
        arguments: Of :class:`~dicenas.space.SpaceSpec`, lists where it has tuples.

    Attributes:
        spec: The space as data.
        architecture: What a frozen space is, ``None`` while it is free.
    """

    stem: nn.Module
    stages: nn.Sequential
    head: nn.Module

    def __init__(self, backbone: str, **arguments: Unpack[SpaceArguments]) -> None:
        super().__init__()
        self.spec = SpaceSpec(backbone, **{name: _frozen(value) for name, value in arguments.items()})
        self.architecture: Architecture | None = None
        self._weights_are_shared = False
        context = current_model()
        if context is None:
            self._build_free()
        else:
            self.architecture = self.spec.architecture(self._own_labels(context))
            network = build(self.architecture)
            self.stem, self.stages, self.head = network.stem, network.stages, network.head

    def _own_labels(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        # A sample of NNI may hold the evaluator's labels too, and a context a mark of its own. One-shot strategies know
        # blocks by the names of their modules.
        own = {choice.label: sample[choice.label] for choice in self.spec.choices if choice.label in sample}
        return {label: value.replace(",", ".") if isinstance(value, str) else value for label, value in own.items()}

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
            block = blocks[label]
            candidates = {
                name: backbone.build_block(backbone.block_with_op(block, name)) for name in spec.candidates(label)
            }
            return BlockChoice(candidates, label=label) if len(candidates) > 1 else candidates.popitem()[1]

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

        Its weights are fresh, or copies of those that a one-shot strategy of NNI trained. Running statistics of the
        latter are those of all networks together: :func:`dicenas.evaluation.recalibrate` takes them anew.

        Raises:
            ValueError: An active label is missing, or a value is not among the choices.
        """
        own = self._own_labels(sample)
        with model_context(own):
            network = make_space(self.spec)
        if self._weights_are_shared:
            copy_weights(self, own, network)
        return network

    def extra_oneshot_hooks(self, strategy: Any) -> list[Any]:
        """Make the space ready for a one-shot strategy of NNI, which calls this before it changes the space.

        Raises:
            ValueError: The space leaves open what these strategies cannot choose, a width say.
        """
        share_weights(self)
        self._weights_are_shared = True
        return []

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stages(self.stem(x)))
        return logits


def make_space(spec: SpaceSpec) -> BackboneSpace:
    """Return the NNI model space of a :class:`~dicenas.space.SpaceSpec`."""
    from dicenas.search_spaces.named import NAMED_SPACES

    arguments = spec.to_dict()
    backbone = arguments.pop("backbone")
    kind = NAMED_SPACES.get(backbone)
    return BackboneSpace(backbone, **arguments) if kind is None else kind(**arguments)


def _frozen(value: Any) -> Any:
    """Return lists within lists as tuples within tuples; names stay what they are, for the space to refuse."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
