"""Whole networks timed in turns with a reference network, and on the way the blocks inside them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dicenas.architecture import Architecture
from dicenas.cost.runtimes import LatencySettings, as_runtime, prepare, using_threads
from dicenas.cost.table import NetworkLatency
from dicenas.cost.timing import Timer, cpu_timer, cuda_timer, summarize
from dicenas.nets import build

__all__ = ["TurnTaker", "runs_in_blocks"]

# Runs of a network in one turn; the first of each turn finds the caches full of the other network's weights.
_RUNS_PER_TURN = 6
_REFERENCE_RUNS_PER_TURN = 4
_LEAST_TURNS = 4


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

    def measure(self, architecture: Architecture, *, time_limit_s: float = 1.0) -> NetworkLatency:
        """Measure a network.

        Args:
            architecture: The network.
            time_limit_s: Limit of the timed runs together, in seconds; four turns are taken in any case.
        """
        with ExitStack() as stack:
            stack.enter_context(using_threads(self.settings.threads))
            reference = self._runner(stack, self.reference)
            runner = self._runner(stack, architecture)
            own: list[float] = []
            references: list[float] = []
            blocks_ms: list[list[float]] = []
            start = time.perf_counter()
            turns = 0
            while True:
                references += _turn(reference, _REFERENCE_RUNS_PER_TURN)[0]
                times_ms, inside = _turn(runner, _RUNS_PER_TURN)
                own += times_ms
                blocks_ms += inside
                turns += 1
                if turns < _LEAST_TURNS:
                    continue
                if time.perf_counter() - start >= time_limit_s or summarize(own)["verdict"] == "ok":
                    break
        summary = summarize(own)
        return NetworkLatency(
            architecture=architecture,
            latency_ms=summary["latency_ms"],
            interval_ms=summary["interval_ms"],
            reference_ms=summarize(references)["latency_ms"],
            blocks_ms=_shares(summary["latency_ms"], blocks_ms) if blocks_ms else None,
        )

    def measure_block(self, block: nn.Module, in_shape: tuple[int, ...]) -> tuple[float, float]:
        """Measure a block by itself, in turns with the reference network; return its time and the reference's, in ms.

        Args:
            block: The block's module.
            in_shape: Shape ``(C, H, W)`` of its input.
        """
        with ExitStack() as stack:
            stack.enter_context(using_threads(self.settings.threads))
            reference = self._runner(stack, self.reference)
            runner = _Runner(_timer(stack, block, in_shape, self.settings), [])
            own: list[float] = []
            references: list[float] = []
            for _ in range(_LEAST_TURNS):
                references += _turn(reference, _REFERENCE_RUNS_PER_TURN)[0]
                own += _turn(runner, 2 * _RUNS_PER_TURN)[0]
        return summarize(own)["latency_ms"], summarize(references)["latency_ms"]

    def _runner(self, stack: ExitStack, architecture: Architecture) -> _Runner:
        sized = architecture if self.input_size is None else architecture.at_size(self.input_size)
        in_shape = (sized.in_channels, *sized.image_size)
        network = build(sized)
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
    blocks: list[Callable[[Tensor], Tensor]] = [
        network.stem,
        *(block for stage in network.stages for block in stage),
        network.head,
    ]
    blocks_ms: list[list[float]] = []

    def timer() -> float:
        marks = [time.perf_counter_ns()]
        y = x
        for block in blocks:
            y = block(y)
            marks.append(time.perf_counter_ns())
        blocks_ms.append([(after - before) / 1e6 for before, after in itertools.pairwise(marks)])
        return (marks[-1] - marks[0]) / 1e6

    for _ in range(3):
        timer()
    return _Runner(timer, blocks_ms)


def _turn(runner: _Runner, runs: int) -> tuple[list[float], list[list[float]]]:
    """Run several times; the first run, which warms the caches, is not counted."""
    runner.timer()
    runner.blocks_ms.clear()
    times_ms = [runner.timer() for _ in range(runs)]
    return times_ms, list(runner.blocks_ms)


def _shares(latency_ms: float, runs: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Return the blocks' medians, scaled so that they add up to the network's median."""
    medians = [summarize(times)["latency_ms"] for times in zip(*runs, strict=True)]
    return tuple(time_ms * latency_ms / sum(medians) for time_ms in medians)
