"""Known networks as points of a space: what a search can begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dicenas.architecture import Architecture
from dicenas.nets import list_nets, net_architecture
from dicenas.space import SpaceSpec

__all__ = ["named_architecture"]


def named_architecture(space: SpaceSpec, name: str) -> Architecture:
    """Return a known network as a point of a space: with the space's image size, classes and stem.

    Args:
        space: The space.
        name: Name of a published network, such as ``"dicenet_020"`` (:func:`dicenas.nets.list_nets`), or an
            architecture file, which ends in ``.json``.

    Raises:
        ValueError: There is no such network, or it is no point of the space; the message says why.
        OSError: The file cannot be read.
    """
    known = Architecture.load(Path(name)) if name.endswith(".json") else net_architecture(name)
    fitted = _fitted(space, known)
    if fitted in space:
        return fitted
    points = [other for other in list_nets() if _fitted(space, net_architecture(other)) in space]
    hint = f" (points of it: {', '.join(points)})" if points else ""
    reason = next(_differences(space, fitted), "no combination of its choices gives these blocks")
    raise ValueError(f"{name} is not a point of this {space.backbone} space: {reason}{hint}")


def _fitted(space: SpaceSpec, architecture: Architecture) -> Architecture:
    side = architecture.image_size[0] if architecture.image_size[0] in space.resolutions else space.resolutions[0]
    return architecture.replace(
        image_size=(side, side),
        stem=architecture.stem if architecture.stem in space.stems else space.stems[0],
        num_classes=space.num_classes,
        in_channels=space.in_channels,
    )


def _differences(space: SpaceSpec, architecture: Architecture) -> Iterator[str]:
    """Yield what an architecture has and the space does not."""
    if architecture.backbone != space.backbone:
        yield f"its backbone is {architecture.backbone}"
        return
    if architecture.width not in space.widths:
        yield f"its width is {architecture.width:g}, and the space has {', '.join(f'{w:g}' for w in space.widths)}"
    deepest = space.full_layout(space.widths[0], space.stems[0], space.resolutions[0]).stages
    for number, (blocks, offered) in enumerate(zip(architecture.stages, deepest, strict=True), 1):
        if len(blocks) > len(offered):
            yield f"its stage {number} has {len(blocks)} blocks, and the space has at most {len(offered)}"
        for position, block in enumerate(blocks[: len(offered)]):
            if block not in (names := space.candidates(f"s{number}_b{position}")):
                yield f"block {position} of its stage {number} is {block}, and the space has {', '.join(names)}"
    depths = ", ".join(str(list(depths)) for depths in space.depths)
    yield f"its stages have {', '.join(str(len(s)) for s in architecture.stages)} blocks, and the depths are {depths}"
