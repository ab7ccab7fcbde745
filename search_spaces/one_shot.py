"""NNI's one-shot strategies (``RandomOneShot``, ``DARTS``, ...) on the spaces over the backbones.

They choose between blocks and depths. Widths, stems and resolutions of one network they cannot share;
:class:`dicenas.evaluation.Supernet` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dicenas.search_spaces._nni  # isort: skip  # noqa: F401  (before anything else of NNI)
import nni
from nni.mutable import frozen_context
from nni.nas.nn.pytorch import LayerChoice, Repeat
from torch import nn

from dicenas.nets import get_backbone

if TYPE_CHECKING:
    from dicenas.search_spaces.backbone_space import BackboneSpace

__all__ = ["copy_weights", "module_name", "share_weights"]


def module_name(block: str) -> str:
    """Return the name of the module of a block: a module's name may hold no point, and has a comma there."""
    return block.replace(".", ",")


def share_weights(space: BackboneSpace) -> None:
    """Turn a free space into what NNI's one-shot strategies take, in place.

    They know NNI's own classes only, so that each block is an NNI ``LayerChoice``, and a stage of several depths an NNI
    ``Repeat``.

    Raises:
        ValueError: Something is open that these strategies cannot choose.
    """
    spec = space.spec
    values = {"width": spec.widths, "stem": spec.stems, "resolution": spec.resolutions}
    if several := {name: list(given) for name, given in values.items() if len(given) > 1}:
        raise ValueError(
            f"NNI's one-shot strategies share weights between blocks and depths, not between {several}: give one of "
            "each, or take dicenas.evaluation.SupernetEvaluator, which shares weights between widths"
        )
    leading = get_backbone(spec.backbone).leading_blocks
    with frozen_context():  # NNI's choices are made within a context, as in the constructor of a space
        for number, (stage, depths) in enumerate(zip(space.stages, spec.depths, strict=True)):
            blocks = [_as_layer_choice(block) for block in stage.children()]
            if len(depths) > 1:
                space.stages[number] = Repeat(blocks, nni.choice(f"s{number + 1}_depth", list(depths)) + leading)
            else:
                space.stages[number] = nn.Sequential(*blocks)


def _as_layer_choice(block: nn.Module) -> nn.Module:
    if not isinstance(block, LayerChoice):
        return block
    return LayerChoice({module_name(name): block[name] for name in block.names}, label=block.label)


def copy_weights(space: BackboneSpace, sample: Mapping[str, Any], net: BackboneSpace) -> None:
    """Copy the weights of a sample out of a space whose weights were trained together.

    Args:
        space: What :func:`share_weights` and a strategy of NNI made of a free space.
        sample: Its labels.
        net: The space frozen for the sample.
    """
    family = get_backbone(space.spec.backbone)
    net.stem.load_state_dict(space.stem.state_dict())
    net.head.load_state_dict(space.head.state_dict())
    for number, (stage, own) in enumerate(zip(space.stages, net.stages, strict=True), 1):
        blocks = list(stage.blocks if isinstance(stage, Repeat) else stage.children())
        depth = sample.get(f"s{number}_depth", space.spec.depths[number - 1][0])
        kept = []
        for position, block in enumerate(blocks[: family.leading_blocks + depth]):
            label = f"s{number}_b{position}"
            name = sample.get(label, space.spec.candidates(label)[0])
            if not family.is_left_out(name):
                kept.append(block[module_name(name)] if isinstance(block, LayerChoice) else block)
        for source, target in zip(kept, own.children(), strict=True):
            target.load_state_dict(source.state_dict())
