"""The registry of candidate ops: what spaces, networks, costs, converters and the command line choose from.

An op is a factory that maps ``(N, in_channels, stride * H, stride * W)`` to ``(N, out_channels, H, W)``. A candidate is
an op with a kernel size, written ``dice_k3``; an op without kernel sizes, like ``skip``, is a candidate by its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, wraps
from typing import Any, Protocol, TypeVar

from torch import nn

from dicenas.ops.cost import Cost
from dicenas.ops.layers import ACTIVATIONS
from dicenas.ops.slicing import Positions
from dicenas.spelling import did_you_mean

__all__ = [
    "CandidateArguments",
    "Downsample",
    "Entry",
    "OpInfo",
    "build_candidate",
    "build_op",
    "candidate_cost",
    "expand_candidates",
    "from_arguments",
    "get_op",
    "list_ops",
    "parse_candidate",
    "register_op",
]


@dataclass(frozen=True)
class CandidateArguments:
    """The arguments with which a factory or a cost hook of an op is called.

    Attributes:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: 1 or 2.
        size: ``(H, W)`` of the output.
        kernel_size: One of the op's kernel sizes; 1 for an op without.
        activation: Name of the activation.
        final_activation: Whether the output is activated.
        in_size: ``(H, W)`` of the input; by default ``stride * size``. An odd input of a strided op is one smaller.
    """

    in_channels: int
    out_channels: int
    stride: int
    size: tuple[int, int]
    kernel_size: int
    activation: str
    final_activation: bool
    in_size: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.in_size == (0, 0):
            object.__setattr__(self, "in_size", (self.stride * self.size[0], self.stride * self.size[1]))

    @property
    def last_activation(self) -> str | None:
        """Name of the activation of the output, ``None`` where it is linear."""
        return self.activation if self.final_activation else None


class OpFactory(Protocol):
    """Builds the module of an op."""

    def __call__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        size: tuple[int, int],
        kernel_size: int,
        activation: str,
        final_activation: bool,
    ) -> nn.Module: ...


CostHook = Callable[[CandidateArguments], Cost]
SliceHook = Callable[[nn.Module, nn.Module], Mapping[str, Positions]]
SupportsHook = Callable[[CandidateArguments], bool]
Factory = TypeVar("Factory", bound=OpFactory)


@dataclass(frozen=True)
class Downsample:
    """A two-branch down-sampling unit that ShuffleNetV2 backbones use for an op instead of their own.

    Attributes:
        build: ``(channels, size, kernel_size, activation)`` to a module that maps ``(N, C, 2H, 2W)`` to
            ``(N, 2C, H, W)``; ``size`` is that of the output.
        cost: The closed form of the same arguments.
    """

    build: Callable[[int, tuple[int, int], int, str], nn.Module]
    cost: Callable[[int, tuple[int, int], int, str], Cost]


@dataclass(frozen=True)
class Entry:
    """What an op puts in place of the first point-wise convolution of the block that it stands in.

    DiCENet's Table 3 replaces that layer too: ``DimFuse + DimConv + DimFuse``.

    Attributes:
        build: ``(in_channels, out_channels, size, activation)`` to a module that maps ``(N, in_channels, H, W)`` to
            ``(N, out_channels, H, W)``, activated.
        cost: The closed form of the same arguments.
    """

    build: Callable[[int, int, tuple[int, int], str], nn.Module]
    cost: Callable[[int, int, tuple[int, int], str], Cost]


@dataclass(frozen=True)
class OpInfo:
    """What the registry knows of an op; see :func:`register_op`."""

    name: str
    factory: OpFactory
    kernel_sizes: tuple[int, ...]
    supports: SupportsHook | None
    cost: CostHook | None
    slice: SliceHook | None
    downsample: Downsample | None
    entry: Entry | None
    identity: bool
    group: str
    summary: str

    @cached_property
    def candidates(self) -> tuple[str, ...]:
        """Names of the op's candidates, one a kernel size."""
        return tuple(f"{self.name}_k{k}" for k in self.kernel_sizes) or (self.name,)


_REGISTRY: dict[str, OpInfo] = {}
_CANDIDATE = re.compile(r"(?P<name>.+)_k(?P<kernel_size>\d+)")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_LIKE_A_BLOCK = re.compile(r".+_(k\d+|e\d+(_[a-z0-9_]+)?)")


def register_op(
    name: str,
    *,
    kernel_sizes: Iterable[int] = (3,),
    supports: SupportsHook | None = None,
    cost: CostHook | None = None,
    slice: SliceHook | None = None,
    downsample: Downsample | None = None,
    entry: Entry | None = None,
    identity: bool = False,
    group: str = "own",
) -> Callable[[Factory], Factory]:
    """Register the decorated factory as the candidate op ``name``.

    Args:
        name: Lower-case identifier, not ending like a candidate (``_k3``) or like a block with an expansion (``_e6``,
            ``_e6_relu``).
        kernel_sizes: Odd kernel sizes on offer; empty for an op without one.
        supports: Whether the op can serve these arguments; spaces offer it only where it can. By default always.
        cost: Closed form of its cost. Without it the op is built on the meta device and counted, once for each
            distinct set of arguments.
        slice: For networks that share weights between widths. Takes a block that holds the op and the same block with
            fewer channels or a smaller native size, and returns which entries of its parameters the second one takes,
            as :func:`~dicenas.ops.prefixes` does, which suits ops of standard layers. Parameters that it leaves out,
            and the blocks of an op without it, have weights of their own for each width.
        downsample: A whole down-sampling unit for ShuffleNetV2 backbones.
        entry: What replaces the first point-wise convolution of blocks that have one.
        identity: Whether the op gives its input back unchanged, so that a block of it alone can be left out.
        group: Under what listings show the op.

    Raises:
        ValueError: The name is taken or not usable, or a kernel size is even or given twice.

    Example:
        >>> @register_op("pool", kernel_sizes=())
        ... def pool(in_channels, out_channels, *, stride, size, kernel_size, activation, final_activation):
        ...     return nn.Sequential(nn.AvgPool2d(3, stride, 1), nn.Conv2d(in_channels, out_channels, 1))
    """
    sizes = tuple(kernel_sizes)
    if not _NAME.fullmatch(name) or _LIKE_A_BLOCK.fullmatch(name):
        raise ValueError(
            f"op name {name!r} should be a lower-case identifier that does not end in _k<number> or _e<number>"
        )
    if name in _REGISTRY:
        raise ValueError(f"op {name!r} is already registered")
    if any(k < 1 or k % 2 == 0 for k in sizes) or len(set(sizes)) < len(sizes):
        raise ValueError(f"op {name!r}: kernel sizes {sizes} should be odd, positive and distinct")

    def register(factory: Factory) -> Factory:
        summary = (factory.__doc__ or "").strip().partition("\n")[0]
        _REGISTRY[name] = OpInfo(
            name, factory, sizes, supports, cost, slice, downsample, entry, identity, group, summary
        )
        return factory

    return register


def from_arguments(build: Callable[[CandidateArguments], nn.Module]) -> OpFactory:
    """Make a factory of a function that takes its arguments as one :class:`CandidateArguments`."""

    @wraps(build)
    def factory(in_channels: int, out_channels: int, **options: Any) -> nn.Module:
        return build(CandidateArguments(in_channels, out_channels, **options))

    return factory


def list_ops() -> list[str]:
    """Return the names of all registered ops, sorted."""
    return sorted(_REGISTRY)


def get_op(name: str) -> OpInfo:
    """Return what is registered for ``name``.

    Raises:
        ValueError: There is no such op; the message names the nearest one.
    """
    if name not in _REGISTRY:
        raise ValueError(f"unknown op {name!r}{did_you_mean(name, _REGISTRY)} (registered: {', '.join(list_ops())})")
    return _REGISTRY[name]


def build_op(
    name: str,
    in_channels: int,
    out_channels: int,
    *,
    stride: int = 1,
    size: tuple[int, int],
    kernel_size: int | None = None,
    activation: str = "prelu",
    final_activation: bool = True,
) -> nn.Module:
    """Build the registered op ``name``: maps ``(N, in_channels, sH, sW)`` to ``(N, out_channels, H, W)``.

    Args:
        name: Name of a registered op.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: 1 or 2.
        size: ``(H, W)`` of the *output*.
        kernel_size: One of the op's kernel sizes; by default 3, or the op's smallest where it has no 3.
        activation: Name of the activation.
        final_activation: Whether the output is activated; without, it is linear.

    Raises:
        ValueError: An unknown op or activation, or arguments that the op cannot serve.
    """
    op = get_op(name)
    arguments = _arguments(op, in_channels, out_channels, stride, size, kernel_size, activation, final_activation)
    return _build(op, arguments)


def expand_candidates(names: Iterable[str]) -> tuple[str, ...]:
    """Spell out candidates: an op's name stands for all its kernel sizes, a candidate for itself.

    Raises:
        ValueError: A name is neither an op nor a candidate, is no text, or comes twice.
    """
    expanded: list[str] = []
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"candidate op {name!r} should be a name such as 'dice' or 'dice_k3'")
        if name in _REGISTRY:
            expanded += get_op(name).candidates
        else:
            parse_candidate(name)
            expanded.append(name)
    twice = {name for name in expanded if expanded.count(name) > 1}
    if twice:
        raise ValueError(f"candidate ops given twice: {', '.join(sorted(twice))}")
    return tuple(expanded)


def parse_candidate(candidate: str) -> tuple[OpInfo, int]:
    """Return the op and the kernel size of a candidate such as ``"dice_k3"``.

    Raises:
        ValueError: There is no such candidate.
    """
    match = _CANDIDATE.fullmatch(candidate)
    op = get_op(match["name"] if match else candidate)
    kernel_size = int(match["kernel_size"]) if match else 1
    if candidate not in op.candidates:
        raise ValueError(f"unknown candidate {candidate!r}; op {op.name!r} offers {', '.join(op.candidates)}")
    return op, kernel_size


def build_candidate(
    candidate: str,
    in_channels: int,
    out_channels: int,
    stride: int,
    size: tuple[int, int],
    activation: str,
    final_activation: bool,
) -> nn.Module:
    """Build the op of a candidate name; arguments as :func:`build_op`."""
    op, kernel_size = parse_candidate(candidate)
    arguments = _arguments(op, in_channels, out_channels, stride, size, kernel_size, activation, final_activation)
    return _build(op, arguments)


@lru_cache(maxsize=65536)
def candidate_cost(candidate: str, arguments: CandidateArguments) -> Cost:
    """Return the cost of a candidate for these arguments: its closed form, or counted on the meta device."""
    op, _ = parse_candidate(candidate)
    if op.cost is not None:
        return op.cost(arguments)
    return _counted_cost(op, arguments)


def _counted_cost(op: OpInfo, arguments: CandidateArguments) -> Cost:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        module = _build(op, arguments).eval()
        x = torch.empty(1, arguments.in_channels, *arguments.in_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(x)
    return Cost(counter.get_total_flops() // 2, sum(p.numel() for p in module.parameters()))


def _arguments(
    op: OpInfo,
    in_channels: int,
    out_channels: int,
    stride: int,
    size: Any,
    kernel_size: int | None,
    activation: str,
    final_activation: bool,
) -> CandidateArguments:
    """Validate what a caller gave for an op."""
    problem = f"op {op.name!r}: "
    if in_channels < 1 or out_channels < 1:
        raise ValueError(f"{problem}in_channels {in_channels} and out_channels {out_channels} must be positive")
    if stride not in (1, 2):
        raise ValueError(f"{problem}stride {stride} is neither 1 nor 2")
    if not isinstance(size, Sequence) or len(size) != 2 or min(size) < 1:
        raise ValueError(f"{problem}size {size} should be (H, W) of the output, both at least 1")
    if activation not in ACTIVATIONS:
        known = ", ".join(sorted(ACTIVATIONS))
        hint = did_you_mean(activation, ACTIVATIONS)
        raise ValueError(f"{problem}unknown activation {activation!r}{hint} (known: {known})")
    if kernel_size is None:
        kernel_size = 3 if 3 in op.kernel_sizes else min(op.kernel_sizes, default=1)
    elif kernel_size not in (op.kernel_sizes or (1,)):
        offered = ", ".join(map(str, op.kernel_sizes)) or "no choice of it"
        raise ValueError(f"{problem}kernel_size {kernel_size} is not offered; it has {offered}")
    return CandidateArguments(
        in_channels, out_channels, stride, (size[0], size[1]), kernel_size, activation, final_activation
    )


def _build(op: OpInfo, arguments: CandidateArguments) -> nn.Module:
    if op.supports is not None and not op.supports(arguments):
        raise ValueError(
            f"op {op.name!r} cannot map {arguments.in_channels} to {arguments.out_channels} channels "
            f"at stride {arguments.stride} and output size {arguments.size}"
        )
    return op.factory(
        arguments.in_channels,
        arguments.out_channels,
        stride=arguments.stride,
        size=arguments.size,
        kernel_size=arguments.kernel_size,
        activation=arguments.activation,
        final_activation=arguments.final_activation,
    )
