"""One set of weights for all architectures of a space."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dicenas.architecture import Architecture
from dicenas.nets import BlockSpec, Layout, get_backbone
from dicenas.ops import Positions, parse_candidate, prefixes
from dicenas.space import SpaceSpec

__all__ = ["Supernet"]

logger = logging.getLogger(__name__)


class Supernet(nn.Module):
    """A weight-sharing network over a space: its parameters serve all architectures.

    Each place of the space has one set of weights for each candidate op, made for the largest width, expansion and
    native size; the blocks of smaller networks take slices of it, as the op's ``slice`` hook says (:func:`register_op
    <dicenas.ops.register_op>`). What cannot be sliced has weights of its own. Whatever else a network holds, a block
    serves it: ops, depths and widths share stem, head and all other blocks.

    An architecture runs in modules without weights, which are given views of the shared ones: gradients reach these,
    and a network of :func:`dicenas.build` with the same weights copied in computes the same. Normalisations see the
    statistics of the batch and keep none. A network that is to be evaluated is cut out with :meth:`copy_to` and
    recalibrated with :func:`dicenas.evaluation.recalibrate`.

    Args:
        spec: The space.

    Attributes:
        spec: The space.
        weights: The shared weights, ``<place>/<candidate>/<parameter>``; ``@<number>`` behind it says which variant of
            the block has them for itself.
    """

    def __init__(self, spec: SpaceSpec) -> None:
        super().__init__()
        self.spec = spec
        self.weights = nn.ParameterDict()
        self._blocks: dict[tuple[str, BlockSpec], _Block] = {}
        for (place, candidate), variants in _variants(spec).items():
            self._add(place, candidate, variants)

    def forward(self, x: Tensor, architecture: Architecture) -> Tensor:
        """Run an architecture of the space: images ``(N, C, H, W)`` to logits ``(N, num_classes)``.

        Raises:
            ValueError: The architecture is not a point of the space.
        """
        blocks = self._blocks_of(architecture)
        net = nn.Sequential()
        net.add_module("stem", blocks["stem"].module)
        stages = nn.Sequential()
        for number, stage in enumerate(architecture.stages):
            modules = (blocks[f"stages.{number}.{position}"].module for position in range(len(stage)))
            stages.append(nn.Sequential(*modules))
        net.add_module("stages", stages)
        net.add_module("head", blocks["head"].module)
        net.train(self.training)
        logits: Tensor = torch.func.functional_call(net, self._weights_of(blocks), (x,), tie_weights=False)
        return logits

    def weights_of(self, architecture: Architecture) -> dict[str, Tensor]:
        """Return the weights of an architecture, views of the shared ones, by the names of its plain network.

        Raises:
            ValueError: The architecture is not a point of the space.
        """
        return self._weights_of(self._blocks_of(architecture))

    def copy_to(self, net: nn.Module, architecture: Architecture) -> None:
        """Copy the weights of an architecture into its plain network; running statistics stay as they are.

        Args:
            net: What :func:`dicenas.build` gives, on any device.
            architecture: The architecture.

        Raises:
            ValueError: The architecture is not a point of the space, or the network is that of another one.
        """
        weights = self.weights_of(architecture)
        own = dict(net.named_parameters())
        if {name: p.shape for name, p in own.items()} != {name: weight.shape for name, weight in weights.items()}:
            raise ValueError(f"the network is not that of architecture {architecture.hash}: its parameters are others")
        with torch.no_grad():
            for name, weight in weights.items():
                own[name].copy_(weight)

    def _add(self, place: str, candidate: str, variants: Sequence[BlockSpec]) -> None:
        """Build the blocks of one candidate in one place; the largest gives the shared weights."""
        backbone = get_backbone(self.spec.backbone)
        hook = parse_candidate(candidate)[0].slice if candidate else prefixes
        if hook is None and len(variants) > 1:
            logger.info("%s: op %s does not slice and has %d sets of weights", place, candidate, len(variants))
        modules = [backbone.build_block(block) for block in variants]
        wide = max(modules, key=lambda module: sum(parameter.numel() for parameter in module.parameters()))
        shared = dict(wide.named_parameters())
        for number, (block, module) in enumerate(zip(variants, modules, strict=True)):
            slices: Mapping[str, Positions] = {}
            if module is wide:
                slices = {name: tuple(map(range, parameter.shape)) for name, parameter in shared.items()}
            elif hook is not None:
                slices = hook(wide, module)
            weights = {}
            for name, parameter in module.named_parameters():
                key = f"{place}/{candidate}/{name}".replace(".", "/")
                if name in slices:
                    _check_slice(f"{candidate or place}, {name}", slices[name], parameter, shared.get(name))
                    source, chosen = shared[name], _as_index(slices[name], shared[name])
                else:
                    key, source, chosen = f"{key}@{number}", parameter, None
                if key not in self.weights:
                    self.weights[key] = nn.Parameter(source.detach().clone())
                weights[name] = _Slice(key, chosen)
            self._blocks[place, block] = _Block(module, weights)
        for module in modules:
            _without_weights(module)

    def _blocks_of(self, architecture: Architecture) -> dict[str, _Block]:
        if architecture not in self.spec:
            raise ValueError(f"architecture {architecture.hash} is not a point of the supernet's space")
        layout = get_backbone(self.spec.backbone).layout(architecture)
        return {path: self._blocks[place, block] for place, path, block in _places(layout)}

    def _weights_of(self, blocks: Mapping[str, _Block]) -> dict[str, Tensor]:
        return {
            f"{path}.{name}": chosen.of(self.weights)
            for path, block in blocks.items()
            for name, chosen in block.weights.items()
        }


@dataclass(frozen=True)
class _Slice:
    """Part of a shared weight.

    Attributes:
        key: Name of the shared weight.
        index: What is taken along each dimension: a slice, or positions; ``None`` for all of it.
    """

    key: str
    index: tuple[slice | Tensor, ...] | None

    def of(self, weights: nn.ParameterDict) -> Tensor:
        """Return this part, a view wherever slices alone give it."""
        weight: Tensor = weights[self.key]
        if self.index is None:
            return weight
        part = weight[tuple(chosen if isinstance(chosen, slice) else slice(None) for chosen in self.index)]
        for dim, chosen in enumerate(self.index):
            if isinstance(chosen, Tensor):
                part = part.index_select(dim, chosen.to(part.device))
        return part


@dataclass(frozen=True)
class _Block:
    """One block of a network.

    Attributes:
        module: Its module without weights.
        weights: Where its weights are, by their names in the module.
    """

    module: nn.Module
    weights: Mapping[str, _Slice]


def _places(layout: Layout) -> Iterator[tuple[str, str, BlockSpec]]:
    """Yield the blocks of a network with their place in the space and their path in the network."""
    yield "stem", "stem", layout.stem
    for stage, blocks in enumerate(layout.stages):
        for position, block in enumerate(blocks):
            yield f"s{stage + 1}_b{position}", f"stages.{stage}.{position}", block
    yield "head", "head", layout.head


def _variants(spec: SpaceSpec) -> dict[tuple[str, str], list[BlockSpec]]:
    """Return by place and candidate op (none in stem and head) the blocks that differ in anything else."""
    backbone = get_backbone(spec.backbone)
    variants: dict[tuple[str, str], dict[BlockSpec, None]] = {}  # an ordered set
    for width, stem, resolution in itertools.product(spec.widths, spec.stems, spec.resolutions):
        for place, _, block in _places(spec.full_layout(width, stem, resolution)):
            if block.op is None:
                variants.setdefault((place, ""), {})[block] = None
                continue
            for name in spec.candidates(place):
                key = place, backbone.candidate(name)
                variants.setdefault(key, {})[backbone.block_with_op(block, name)] = None
    return {key: list(blocks) for key, blocks in variants.items()}


def _check_slice(what: str, positions: Positions, parameter: Tensor, shared: Tensor | None) -> None:
    shape = tuple(map(len, positions))
    if shared is None or shape != tuple(parameter.shape):
        given = "a parameter that the larger block lacks" if shared is None else f"shape {shape}"
        raise ValueError(f"{what}: the slice hook gives {given}, expected shape {tuple(parameter.shape)}")
    if shared.ndim != parameter.ndim or any(
        min(chosen, default=0) < 0 or max(chosen, default=0) >= size
        for chosen, size in zip(positions, shared.shape, strict=True)
    ):
        raise ValueError(f"{what}: the slice hook gives positions outside the shared shape {tuple(shared.shape)}")


def _as_index(positions: Positions, shared: Tensor) -> tuple[slice | Tensor, ...] | None:
    """Return positions as slices where they are even, as tensors where not; ``None`` where they are all there is."""
    if all(list(chosen) == list(range(size)) for chosen, size in zip(positions, shared.shape, strict=True)):
        return None
    return tuple(map(_even_slice, positions))


def _even_slice(positions: Sequence[int]) -> slice | Tensor:
    step = positions[1] - positions[0] if len(positions) > 1 else 1
    even = range(positions[0], positions[0] + step * len(positions), step) if positions and step > 0 else None
    return slice(even.start, even.stop, step) if even and list(even) == list(positions) else torch.tensor(positions)


def _without_weights(module: nn.Module) -> None:
    """Leave a module its buffers alone, and normalisations none: they see the statistics of the batch."""
    for child in module.modules():
        for name, parameter in child.named_parameters(recurse=False):
            setattr(child, name, nn.Parameter(torch.empty_like(parameter, device="meta")))
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.track_running_stats = False
            child.running_mean = child.running_var = child.num_batches_tracked = None
