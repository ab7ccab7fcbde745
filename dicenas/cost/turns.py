"""Whole networks timed in turns with a reference network, and on the way the blocks inside them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from dicenas.architecture import Architecture
from dicenas.cost.runtimes import LatencySettings, as_runtime, prepare, using_threads
from dicenas.cost.table import NetworkLatency
from dicenas.cost.timing import Timer, cpu_timer, cuda_timer, summarize
from dicenas.nets import Network, build
from dicenas.nets.fused_shuffle import FusedShuffleStages, FusedShuffleUnits

__all__ = ["LEAST_TURNS", "TurnTaker", "runs_in_blocks"]

# Runs of a network in one turn; the first of each turn finds the caches full of the other network's weights.
_RUNS_PER_TURN = 4
_REFERENCE_RUNS_PER_TURN = 3
#: Turns in which a network is measured, at least.
LEAST_TURNS = 8


def runs_in_blocks(settings: LatencySettings) -> bool:
    """Whether a network runs block after block, so that each block can be timed where it stands."""
    return settings.device == "cpu" and settings.runtime in ("eager", "kernels", "fused")


@dataclass(frozen=True)
class _Runner:
    """Something that can be run and timed; ``blocks_ms`` collects the times of its blocks, run by run."""

    timer: Timer
    blocks_ms: list[list[float]]


class TurnTaker:
    """Measures networks, each in turns with one reference network.

    What slows the machine down for a while slows both, so their quotient holds where the times alone do not.

    Args:
        reference: The reference network.
        settings: Under what networks are measured.
        input_size: Size of the images in pixels; each architecture's own where it is None.
    """

    def __init__(self, reference: Architecture, settings: LatencySettings, input_size: int | None) -> None:
        self.reference = reference
        self.settings = settings
        self.input_size = input_size

    def measure(
        self, architecture: Architecture, *, time_limit_s: float = 1.0, turns: int = LEAST_TURNS
    ) -> NetworkLatency:
        """Measure a network.

        Args:
            architecture: The network.
            time_limit_s: Limit of the timed runs together, in seconds.
            turns: Turns that are taken in any case.
        """
        network = self._built(architecture)
        own: list[float] = []
        references: list[float] = []
        blocks_ms: list[list[float]] = []
        start = time.perf_counter()
        with ExitStack() as outer:
            outer.enter_context(using_threads(self.settings.threads))
            # Where weights and activations come to lie in memory makes a difference of some percent, so each turn has
            # copies of its own; not where making them ready takes seconds.
            kept = None if runs_in_blocks(self.settings) else (self._runner(outer, network), self._reference(outer))
            taken = 0
            while taken < turns or (
                time.perf_counter() - start < time_limit_s and summarize(own)["verdict"] == "noisy"
            ):
                with ExitStack() as stack:
                    runner, reference = kept or (self._runner(stack, network), self._reference(stack))
                    references += _turn(reference, _REFERENCE_RUNS_PER_TURN)[0]
                    times_ms, inside = _turn(runner, _RUNS_PER_TURN)
                own += times_ms
                blocks_ms += inside
                taken += 1
        # Lower quartiles: what disturbs a run makes it slower, so of repeated measurements they scatter less than
        # medians do (0.9 against 1.3 % on a shared machine).
        latency_ms = summarize(own)["p25_ms"]
        return NetworkLatency(
            architecture=architecture,
            latency_ms=latency_ms,
            reference_ms=summarize(references)["p25_ms"],
            blocks_ms=_shares(latency_ms, blocks_ms) if blocks_ms else None,
        )

    def measure_block(self, block: nn.Module, in_shape: tuple[int, ...]) -> tuple[float, float]:
        """Measure a block by itself, in turns with the reference network; return its time and the reference's, in ms.

        Args:
            block: The block's module.
            in_shape: Shape ``(C, H, W)`` of its input.
        """
        with ExitStack() as stack:
            stack.enter_context(using_threads(self.settings.threads))
            reference = self._reference(stack)
            runner = _Runner(_timer(stack, block, in_shape, self.settings), [])
            own: list[float] = []
            references: list[float] = []
            for _ in range(LEAST_TURNS):
                references += _turn(reference, _REFERENCE_RUNS_PER_TURN)[0]
                own += _turn(runner, 2 * _RUNS_PER_TURN)[0]
        return summarize(own)["p25_ms"], summarize(references)["p25_ms"]

    def _built(self, architecture: Architecture) -> Network:
        return build(architecture.at_size(self.input_size))

    @cached_property
    def _reference_network(self) -> Network:
        return self._built(self.reference)

    def _reference(self, stack: ExitStack) -> _Runner:
        return self._runner(stack, self._reference_network)

    def _runner(self, stack: ExitStack, network: Network) -> _Runner:
        in_shape = (network.architecture.in_channels, *network.architecture.image_size)
        if not runs_in_blocks(self.settings):
            return _Runner(_timer(stack, network, in_shape, self.settings), [])
        twin, x = prepare(network, in_shape, self.settings)
        run = stack.enter_context(as_runtime(twin, self.settings.runtime, x))
        stack.enter_context(torch.inference_mode())
        assert isinstance(run, nn.Module)
        return _block_runner(run, x)


def _timer(stack: ExitStack, module: nn.Module, in_shape: tuple[int, ...], settings: LatencySettings) -> Timer:
    twin, x = prepare(module, in_shape, settings)
    run = stack.enter_context(as_runtime(twin, settings.runtime, x))
    stack.enter_context(torch.inference_mode())
    return (cpu_timer if x.device.type == "cpu" else cuda_timer)(run, x)[0]


def _block_runner(network: Any, x: Tensor) -> _Runner:
    """Return a timer of a network that also writes down what each of its blocks took."""
    blocks: list[Callable[[Any], Any]] = [network.stem, *_steps(network.stages, x), network.head]
    blocks_ms: list[list[float]] = []

    def timer() -> float:
        marks = [time.perf_counter_ns()]
        y: Any = x
        for block in blocks:
            y = block(y)
            marks.append(time.perf_counter_ns())
        blocks_ms.append([(after - before) / 1e6 for before, after in itertools.pairwise(marks)])
        return (marks[-1] - marks[0]) / 1e6

    timer()
    return _Runner(timer, blocks_ms)


def _steps(stages: nn.Module, x: Tensor) -> Iterator[Callable[[Any], Any]]:
    """Yield what runs the blocks, as the network runs them: those of fused stages hand more than a map on."""
    if isinstance(stages, FusedShuffleStages):
        yield from stages.steps(x)
        return
    for stage in stages.children():
        yield from stage.steps(x) if isinstance(stage, FusedShuffleUnits) else stage.children()


def _turn(runner: _Runner, runs: int) -> tuple[list[float], list[list[float]]]:
    """Run several times; the first run, which warms the caches, is not counted."""
    runner.timer()
    runner.blocks_ms.clear()
    times_ms = [runner.timer() for _ in range(runs)]
    return times_ms, list(runner.blocks_ms)


def _shares(latency_ms: float, runs: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Return the blocks' lower quartiles, scaled so that they add up to the network's."""
    quartiles = [summarize(times)["p25_ms"] for times in zip(*runs, strict=True)]
    return tuple(time_ms * latency_ms / sum(quartiles) for time_ms in quartiles)
