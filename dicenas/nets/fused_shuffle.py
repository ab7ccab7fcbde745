"""ShuffleNetV2's units in inference, without the copies that their shuffles are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from dicenas.nets.fused import FusedDepthwise, FusedPointwise, runs_on_the_cpu
from dicenas.nets.shufflenetv2 import ShuffleUnit, StridedShuffleUnit
from dicenas.ops import ChannelShuffle, PooledShuffleUnit, SeparableConv, StridedDiCE, kernels
from dicenas.ops.norm_act import is_plain

__all__ = ["FusedShuffleStages", "FusedShuffleUnits"]


class _Reader(nn.Module):
    """A unit, and which channels of the maps before it are its input.

    Maps are what the units before wrote, one after another; channels are counted through them.

    Args:
        unit: The unit.
        before: Channels of each map before it.
        channels: Which of them it reads.
        after: Channels of each map behind it.
        result: Which of these are its output, in its order.
    """

    channels: Tensor
    result: Tensor

    def __init__(
        self, unit: nn.Module, before: tuple[int, ...], channels: Tensor, after: tuple[int, ...], result: Tensor
    ) -> None:
        super().__init__()
        self.unit: Any = unit
        self.before = before
        self.after = after
        self.register_buffer("channels", channels.clone(), persistent=False)
        self.register_buffer("result", result, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.unit(x)
        return y

    @staticmethod
    def in_channels_of(unit: Any) -> int:
        """Return the channels of a unit's input."""
        raise NotImplementedError

    @staticmethod
    def weight_of(unit: Any) -> Tensor:
        """Return the weight of a unit's point-wise convolution: a row for each channel of a map that it writes."""
        raise NotImplementedError

    def passed_by(self) -> Sequence[nn.Module]:
        """Return the modules that :meth:`read` does not call."""
        raise NotImplementedError

    def read(self, maps: list[Tensor], channels: Tensor) -> list[Tensor]:
        """Return the maps that hold the unit's output, of which it reads ``channels`` of the maps before."""
        raise NotImplementedError

    def checked(self, y: Tensor) -> Tensor:
        """Return a map that the unit wrote, or raise ValueError where it has not the channels that it should."""
        if y.shape[1] != self.after[-1]:
            raise ValueError(
                f"{type(self.unit).__name__}: its op gave {tuple(y.shape)}, expected {self.after[-1]} channels: ops of "
                "such units keep their number"
            )
        return y


class _BasicReader(_Reader):
    """Of :class:`ShuffleUnit`: only the half that is not passed on is read."""

    @staticmethod
    def in_channels_of(unit: Any) -> int:
        return sum(unit.split)

    @staticmethod
    def weight_of(unit: Any) -> Tensor:
        weight: Tensor = unit.pointwise.weight
        return weight

    def passed_by(self) -> Sequence[nn.Module]:
        return self, self.unit, self.unit.pointwise, self.unit.shuffle

    def read(self, maps: list[Tensor], channels: Tensor) -> list[Tensor]:
        layer = self.unit.pointwise
        x = kernels.select_pointwise(maps, channels, layer.weight, layer.bias, layer.slope)
        return [*maps, self.checked(self.unit.op(x))]


class _StridedReader(_Reader):
    """Of :class:`StridedShuffleUnit`: the two branches are the maps from here on."""

    @staticmethod
    def in_channels_of(unit: Any) -> int:
        return int(unit.left.pointwise.weight.shape[1])

    @staticmethod
    def weight_of(unit: Any) -> Tensor:
        weight: Tensor = unit.left.pointwise.weight
        return weight

    def passed_by(self) -> Sequence[nn.Module]:
        return self, self.unit, self.unit.shuffle

    def read(self, maps: list[Tensor], channels: Tensor) -> list[Tensor]:
        x = kernels.select_channels(maps, channels)
        return [self.unit.left(x), self.checked(self.unit.right(x))]


class _PooledReader(_Reader):
    """Of :class:`StridedDiCE` and its like: convolution and pooling, with which the branches begin, are one kernel."""

    @staticmethod
    def in_channels_of(unit: Any) -> int:
        return len(unit.left[0].constants)

    @staticmethod
    def weight_of(unit: Any) -> Tensor:
        weight: Tensor = unit.left[1].weight
        return weight

    def passed_by(self) -> Sequence[nn.Module]:
        unit = self.unit
        return self, unit, unit.left, unit.left[0], unit.right, unit.right[0], unit.shuffle

    def read(self, maps: list[Tensor], channels: Tensor) -> list[Tensor]:
        left, right = kernels.select_downsample(maps, channels, self.unit.left[0].constants)
        for layer in list(self.unit.right)[1:]:
            right = layer(right)
        return [self.unit.left[1](left), self.checked(right)]


def _is_average(pool: nn.Module) -> bool:
    """Whether a module is the pooling that the kernel does."""
    return is_plain(pool, nn.AvgPool2d) and (
        (pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode, pool.count_include_pad, pool.divisor_override)
        == (3, 2, 1, False, True, None)
    )


def _reader_kind(unit: Any) -> type[_Reader] | None:
    """What reads for a unit whose insides are fused; ``None`` where it is not as its class made it."""
    kind = type(unit)
    if kind not in (ShuffleUnit, StridedShuffleUnit, StridedDiCE, PooledShuffleUnit) or not is_plain(unit, kind):
        return None
    if not is_plain(unit.shuffle, ChannelShuffle) or unit.shuffle.groups != 2:
        return None
    if kind is ShuffleUnit:
        return _BasicReader if is_plain(unit.pointwise, FusedPointwise) else None
    if kind is StridedShuffleUnit:
        left = unit.left
        fits = is_plain(left, SeparableConv) and isinstance(left.pointwise, FusedPointwise)
        return _StridedReader if fits else None
    left, right = unit.left, unit.right
    if not is_plain(left, nn.Sequential) or not is_plain(right, nn.Sequential) or len(left) != 2 or not len(right):
        return None
    fits = is_plain(left[0], FusedDepthwise) and left[0].stride == 2 and left[0].kernel_size == 3
    return _PooledReader if fits and type(left[1]) is FusedPointwise and _is_average(right[0]) else None


def _shuffled(channels: Tensor) -> Tensor:
    return channels.view(2, -1).t().flatten()


def _readers(units: Iterable[nn.Module]) -> list[_Reader] | None:
    """The readers of units one after another; ``None`` where one of them is something else or does not fit the last."""
    readers: list[_Reader] = []
    for unit in units:
        kind = _reader_kind(unit)
        reader = None if kind is None else _reader(kind, unit, readers[-1] if readers else None)
        if reader is None:
            return None
        readers.append(reader)
    return readers


def _reader(kind: type[_Reader], unit: Any, last: _Reader | None) -> _Reader | None:
    """The reader of a unit behind another one; ``None`` where their channels differ."""
    in_channels, weight = kind.in_channels_of(unit), kind.weight_of(unit)
    written, device = len(weight), weight.device
    maps = (in_channels,) if last is None else last.after
    channels = torch.arange(in_channels, device=device) if last is None else last.result
    if len(channels) != in_channels:
        return None
    if kind is not _BasicReader:
        return kind(unit, maps, channels, (written, written), _shuffled(torch.arange(2 * written, device=device)))
    passed, taken = channels.split(unit.split)
    new = torch.arange(sum(maps), sum(maps) + written, device=device)
    if len(taken) != weight.shape[1] or (len(passed) + written) % 2:
        return None
    return kind(unit, maps, taken, (*maps, written), _shuffled(torch.cat((passed, new))))


#: What takes the input or the maps so far, and gives the maps behind it or the output.
Step = Callable[[Any], Any]


def _steps(x: Tensor, stages: Sequence[Any]) -> list[Step] | None:
    """The steps of stages whose units read channels wherever they lie; ``None`` where they are to run one by one.

    That is on other devices, for what traces modules, where a gradient or a hook may be wanted, for inputs that do not
    fit, and where somebody took units away or put other modules in their place.
    """
    readers: list[_Reader] = []
    channels: list[Tensor] = []
    for stage in stages:
        if not isinstance(stage, FusedShuffleUnits):
            return None
        for i, reader in enumerate(stage):
            if not isinstance(reader, _Reader):
                return None
            begins_stage = bool(readers) and i == 0  # it was made to read a map, and reads what the last stage left
            if begins_stage and (isinstance(reader, _BasicReader) or len(readers[-1].result) != sum(reader.before)):
                return None
            if i > 0 and reader.before != readers[-1].after:
                return None
            channels.append(readers[-1].result if begins_stage else reader.channels)
            readers.append(reader)
    if not readers or len(readers[0].before) != 1 or not _may_read(x, readers[0], stages):
        return None

    def step(reader: _Reader, numbers: Tensor, maps: Any) -> Any:
        maps = reader.read([maps] if reader is readers[0] else maps, numbers)
        return kernels.select_channels(maps, reader.result) if reader is readers[-1] else maps

    return [partial(step, reader, numbers) for reader, numbers in zip(readers, channels, strict=True)]


def _may_read(x: Tensor, first: _Reader, modules: Sequence[Any]) -> bool:
    if type(x) is not Tensor or x.device.type != "cpu" or x.dim() != 4 or x.shape[1] != first.before[0]:
        return False
    if (
        torch.is_autocast_enabled("cpu")
        or not runs_on_the_cpu(x, first.weight_of(first.unit))
        or _has_any_global_hook()
    ):
        return False
    if torch.is_grad_enabled() and any(p.requires_grad for module in modules for p in module.parameters()):
        return False
    left_out = [m for stage in modules for reader in stage for m in reader.passed_by()]
    return not any(m._forward_hooks or m._forward_pre_hooks for m in (*modules, *left_out))


class _InSteps(nn.Sequential):
    """Modules that run in steps, which hand on more than one map, or one after another where that cannot be."""

    def stages(self) -> list[Any]:
        """Return the sequences of units."""
        raise NotImplementedError

    def steps(self, x: Tensor) -> list[Step]:
        """Return what does each unit's part when called one after another, for inputs of the size and type of ``x``."""
        return _steps(x, self.stages()) or [unit for stage in self.stages() for unit in stage]

    def forward(self, x: Tensor) -> Tensor:
        for step in _steps(x, self.stages()) or list(self):
            x = step(x)
        return x


class FusedShuffleUnits(_InSteps):
    """Units of ShuffleNetV2 one after another in inference: ``(N, C, H, W)`` to ``(N, C', H', W')``.

    The units split, concatenate and shuffle channels, and most of these pass through unit after unit untouched. On the
    CPU they stay where the unit that made them wrote them: each point-wise convolution and each down-sampling reads its
    channels wherever they lie, and they are brought into order once, at the end. Elsewhere the units run one by one.

    Build it by :meth:`of`.
    """

    @classmethod
    def of(cls, units: Iterable[nn.Module]) -> FusedShuffleUnits | None:
        """Join units whose insides are fused; ``None`` where another module is among them."""
        readers = _readers(units)
        return cls(*readers) if readers else None

    def stages(self) -> list[Any]:
        return [self]


class FusedShuffleStages(_InSteps):
    """Stages of ShuffleNetV2 in inference, each :class:`FusedShuffleUnits`: ``(N, C, H, W)`` to ``(N, C', H', W')``.

    Each begins with a down-sampling unit, which reads its channels where the stage before left them.
    """

    @classmethod
    def of(cls, modules: Iterable[nn.Module]) -> FusedShuffleStages | None:
        """Join stages; ``None`` where another module is among them, or one that does not begin so."""
        stages = list(modules)
        joined = all(isinstance(stage, FusedShuffleUnits) and type(stage[0]) is not _BasicReader for stage in stages)
        return cls(*stages) if joined and len(stages) > 1 else None

    def stages(self) -> list[Any]:
        return list(self)
