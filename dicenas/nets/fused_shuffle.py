"""ShuffleNetV2's units in inference, without the copies that their shuffles are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dicenas.nets.fused import LINEAR_BY_PIECES, FusedPointwise, runs_on_the_cpu, slopes
from dicenas.nets.shufflenetv2 import ShuffleUnit, StridedShuffleUnit
from dicenas.ops import PooledShuffleUnit, StridedDiCE, kernels

__all__ = ["FusedShuffleStages", "FusedShuffleUnits"]


class _Reader(nn.Module):
    """A unit, and which channels of the maps before it are its input.

    Maps are what the units before wrote, one after another; channels are counted through them.
    """

    channels: Tensor

    def __init__(self, unit: nn.Module, channels: Tensor) -> None:
        super().__init__()
        self.unit = unit
        self.register_buffer("channels", channels, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.unit(x)
        return y

    @property
    def weight(self) -> Tensor:
        """Return one of the unit's weights: where and of what type the unit is."""
        raise NotImplementedError

    def read(self, maps: list[Tensor], channels: Tensor) -> list[Tensor]:
        """Return the maps that hold the unit's output, of which it reads ``channels`` of the maps before."""
        raise NotImplementedError


class _BasicReader(_Reader):
    """Of :class:`ShuffleUnit`: only the half that is not passed on is read."""

    unit: ShuffleUnit

    @property
    def layer(self) -> FusedPointwise:
        """Return the unit's point-wise convolution."""
        assert isinstance(self.unit.pointwise, FusedPointwise)
        return self.unit.pointwise

    @property
    def weight(self) -> Tensor:
        return self.layer.weight

    def read(self, maps: list[Tensor], channels: Tensor) -> list[Tensor]:
        layer = self.layer
        x = kernels.select_pointwise(maps, channels, layer.weight, layer.bias, layer.slope)
        return [*maps, self.unit.op(x)]


class _StridedReader(_Reader):
    """Of :class:`StridedShuffleUnit`: the two branches are the maps from here on."""

    unit: Any

    @property
    def weight(self) -> Tensor:
        weight: Tensor = self.unit.left.pointwise.weight
        return weight

    def read(self, maps: list[Tensor], channels: Tensor) -> list[Tensor]:
        x = kernels.select_channels(maps, channels)
        return [self.unit.left(x), self.unit.right(x)]


class _PooledReader(_Reader):
    """Of :class:`StridedDiCE` and its like: convolution and pooling, with which the branches begin, are one kernel."""

    unit: Any
    constants: Tensor

    def __init__(self, unit: StridedDiCE | PooledShuffleUnit, channels: Tensor) -> None:
        super().__init__(unit, channels)
        conv, act = _layers(unit.left[0])
        constants = conv.weight.flatten(1), conv.bias[:, None], slopes(act, len(conv.weight)).to(conv.bias)[:, None]
        self.register_buffer("constants", torch.cat(constants, 1).detach(), persistent=False)

    @property
    def weight(self) -> Tensor:
        weight: Tensor = self.unit.left[1].weight
        return weight

    def read(self, maps: list[Tensor], channels: Tensor) -> list[Tensor]:
        left, right = kernels.select_downsample(maps, channels, self.constants)
        for layer in list(self.unit.right)[1:]:
            right = layer(right)
        return [self.unit.left[1](left), right]


def _layers(module: nn.Module) -> Any:
    """The convolution and the activation of a layer that is fused, or nothing."""
    return tuple(module) if type(module) is nn.Sequential and len(module) == 2 else (None, None)


def _shuffled(channels: Tensor) -> Tensor:
    return channels.view(2, -1).t().flatten()


class _Plan:
    """Where the channels lie as one unit after another is added."""

    def __init__(self) -> None:
        self.readers: list[_Reader] = []
        self.count = 0  # channels of all maps
        self.channels = torch.empty(
            0, dtype=torch.int64
        )  # those of the map that the units would have made, in its order

    def add(self, unit: Any) -> bool:
        """Add a unit; whether its insides are fused as a reader wants them."""
        if type(unit) is ShuffleUnit:
            return self._add_basic(unit)
        if type(unit) is StridedShuffleUnit:
            return self._add_strided(_StridedReader, unit, _layers(unit.left.depthwise)[0], unit.left.pointwise)
        if type(unit) in (StridedDiCE, PooledShuffleUnit):
            conv, act = _layers(unit.left[0])
            return isinstance(act, LINEAR_BY_PIECES) and self._add_strided(_PooledReader, unit, conv, unit.left[1])
        return False

    def _start(self, channels: int, like: Tensor) -> None:
        if not self.readers:
            self.count, self.channels = channels, torch.arange(channels, device=like.device)

    def _add_basic(self, unit: ShuffleUnit) -> bool:
        if type(unit.pointwise) is not FusedPointwise:
            return False
        weight = unit.pointwise.weight
        self._start(sum(unit.split), weight)
        passed, taken = self.channels.split(unit.split)
        self.readers.append(_BasicReader(unit, taken.clone()))
        new = torch.arange(self.count, self.count + len(weight), device=weight.device)
        self.count += len(weight)
        self.channels = _shuffled(torch.cat((passed, new)))
        return True

    def _add_strided(self, reader: type[Any], unit: nn.Module, conv: nn.Conv2d, last: nn.Module) -> bool:
        if type(last) is not FusedPointwise:
            return False
        self._start(conv.in_channels, last.weight)
        self.readers.append(reader(unit, self.channels))
        self.count = 2 * len(last.weight)
        self.channels = _shuffled(torch.arange(self.count, device=last.weight.device))
        return True


#: What takes the input or the maps so far, and gives the maps behind it or the output.
Step = Callable[[Any], Any]


def _read(x: Tensor, readers: Sequence[_Reader], channels: Sequence[Tensor], result: Tensor) -> list[Step]:
    """The steps of units that read their ``channels`` wherever they lie; the last one puts ``result`` in order."""
    if type(x) is not Tensor or torch.is_autocast_enabled(x.device.type) or not runs_on_the_cpu(x, readers[0].weight):
        return list(readers)  # unit by unit: on other devices, and for what traces modules

    def step(reader: _Reader, numbers: Tensor, maps: Any) -> Any:
        maps = reader.read([maps] if reader is readers[0] else maps, numbers)
        return kernels.select_channels(maps, result) if reader is readers[-1] else maps

    return [partial(step, reader, numbers) for reader, numbers in zip(readers, channels, strict=True)]


class FusedShuffleUnits(nn.Sequential):
    """Units of ShuffleNetV2 one after another in inference: ``(N, C, H, W)`` to ``(N, C', H', W')``.

    The units split, concatenate and shuffle channels, and most of these pass through unit after unit untouched. On the
    CPU they stay where the unit that made them wrote them: each point-wise convolution and each down-sampling reads its
    channels wherever they lie, and they are brought into order once, at the end. Elsewhere the units run one by one.

    Build it by :meth:`of`.
    """

    channels: Tensor

    def __init__(self, plan: _Plan) -> None:
        super().__init__(*plan.readers)
        self.register_buffer("channels", plan.channels, persistent=False)

    @classmethod
    def of(cls, modules: Iterable[nn.Module]) -> FusedShuffleUnits | None:
        """Join units whose insides are fused, and such joined ones; ``None`` where another module is among them."""
        plan = _Plan()
        for module in modules:
            units: list[Any] = [reader.unit for reader in module] if isinstance(module, cls) else [module]
            if not all(plan.add(unit) for unit in units):
                return None
        return cls(plan) if plan.readers else None

    def steps(self, x: Tensor) -> list[Step]:
        """Return what does each unit's part when called one after another, from ``x`` to the output."""
        readers: list[Any] = list(self)
        return _read(x, readers, [reader.channels for reader in readers], self.channels)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps(x):
            x = step(x)
        return x


class FusedShuffleStages(nn.Sequential):
    """Stages of ShuffleNetV2 in inference, each :class:`FusedShuffleUnits`: ``(N, C, H, W)`` to ``(N, C', H', W')``.

    Each begins with a down-sampling unit, which reads its channels where the stage before left them.
    """

    @classmethod
    def of(cls, modules: Iterable[nn.Module]) -> FusedShuffleStages | None:
        """Join stages; ``None`` where another module is among them, or one that does not begin so."""
        stages = list(modules)
        joined = all(isinstance(stage, FusedShuffleUnits) and type(stage[0]) is not _BasicReader for stage in stages)
        return cls(*stages) if joined and len(stages) > 1 else None

    def steps(self, x: Tensor) -> list[Step]:
        """Return what does each unit's part when called one after another, from ``x`` to the output."""
        stages: list[Any] = list(self)
        readers = [reader for stage in stages for reader in stage]
        channels = [reader.channels for reader in readers]
        end = 0
        for stage in stages[:-1]:
            end += len(stage)
            channels[end] = stage.channels  # all of them, where the stage left them
        return _read(x, readers, channels, stages[-1].channels)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps(x):
            x = step(x)
        return x
