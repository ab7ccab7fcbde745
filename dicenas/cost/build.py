"""Measures the latency table of a space, network by network, so that an interruption loses one measurement at most."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch

from dicenas.architecture import Architecture
from dicenas.cost.runtimes import LatencySettings
from dicenas.cost.table import (
    LatencyTable,
    NetworkLatency,
    block_from_dict,
    block_to_dict,
    fingerprint_of,
    network_from_dict,
    network_to_dict,
)
from dicenas.cost.turns import TurnTaker, runs_in_blocks
from dicenas.files import sync_folder
from dicenas.nets.backbone import BlockSpec, get_backbone
from dicenas.space import SpaceSpec
from dicenas.space.vectorized import VectorizedSpace

__all__ = ["BuildPlan", "build_table", "covering_networks"]

#: Networks measured whole where blocks are measured by themselves: they calibrate the sum.
_CALIBRATION_NETWORKS = 40


@dataclass(frozen=True)
class BuildPlan:
    """How a table is measured.

    Attributes:
        contexts: In how many networks each block is measured, at least.
        time_limit_s: Limit of the timed runs of one network.
        seed: Of the networks that are drawn.
    """

    contexts: int = 6
    time_limit_s: float = 1.5
    seed: int = 0


def covering_networks(
    space: SpaceSpec, contexts: int, seed: int = 0, input_size: int | None = None
) -> list[Architecture]:
    """Draw networks of a space until each of its blocks stands in ``contexts`` of them.

    Every choice falls on a value that was chosen least so far; which of these is drawn at random.

    Args:
        space: The space.
        contexts: In how many networks each block is to stand, at least.
        seed: Of the draws.
        input_size: Size of the images at which the blocks are told apart; each architecture's own by default.
    """
    rng = Random(seed)
    vectorized = VectorizedSpace(space, input_size)
    family = get_backbone(space.backbone)
    missing = Counter(dict.fromkeys(vectorized.blocks, contexts))
    chosen: Counter[tuple[Any, ...]] = Counter()
    networks: dict[Architecture, None] = {}
    fruitless = 0
    while missing and fruitless < 1000:
        sample: dict[str, Any] = {}
        for choice in space.choices:
            if choice.active(sample):
                # Ops are counted for each width apart: the blocks of two widths have nothing in common.
                context = (sample.get("width"), sample.get("stem"), sample.get("resolution"), choice.label)
                least = min(chosen[(*context, value)] for value in choice.values)
                value = rng.choice([value for value in choice.values if chosen[(*context, value)] == least])
                sample[choice.label] = value
                chosen[(*context, value)] += 1
        architecture = space.architecture(sample)
        blocks = set(family.layout(architecture.at_size(input_size)).blocks)
        if architecture in networks or not any(missing[block] > 0 for block in blocks):
            fruitless += 1  # a small space may not hold as many networks
            continue
        fruitless = 0
        networks[architecture] = None
        missing.subtract(blocks)
        missing = +missing
    return list(networks)


@dataclass
class _Journal:
    """What has been measured, a line each, in a file beside the table that is to be."""

    path: Path
    header: dict[str, Any]
    networks: dict[Architecture, NetworkLatency] = field(default_factory=dict)
    isolated: dict[BlockSpec, tuple[float, float]] = field(default_factory=dict)
    infeasible: dict[BlockSpec, str] = field(default_factory=dict)

    def read(self) -> None:
        """Read what an interrupted build left.

        Raises:
            ValueError: The file belongs to another build, or is damaged.
        """
        content = self.path.read_bytes() if self.path.exists() else b""
        *lines, torn = content.split(b"\n")
        header = _line(self.header)
        if not lines and header.startswith(torn):  # new, or killed while it wrote the first line
            with self.path.open("wb"):
                pass
            sync_folder(self.path.parent)
            self._append(self.header)
            return
        if not lines or lines[0] + b"\n" != header:
            raise ValueError(
                f"{self.path} holds measurements for another space, device or plan; "
                "go on with the same arguments, or remove the file"
            )
        if torn:  # the line that was being written when the build was killed
            with self.path.open("r+b") as file:
                file.truncate(len(content) - len(torn))
        for number, line in enumerate(lines[1:], 2):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{self.path}, line {number}: damaged ({error}); remove the file") from error

    def _take(self, record: Mapping[str, Any]) -> None:
        if record["kind"] == "network":
            network = network_from_dict(record["network"])
            self.networks[network.architecture] = network
        elif record["kind"] == "block":
            self.isolated[block_from_dict(record["block"])] = (record["latency_ms"], record["reference_ms"])
        else:
            self.infeasible[block_from_dict(record["block"])] = record["reason"]

    def add(self, **record: Any) -> None:
        """Write a measurement down; it is on disk when this returns."""
        self._append(record)
        self._take(json.loads(json.dumps(record)))

    def _append(self, record: Mapping[str, Any]) -> None:
        with self.path.open("ab") as file:
            file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


def build_table(
    space: SpaceSpec,
    settings: LatencySettings,
    path: str | Path,
    *,
    input_size: int | None = None,
    plan: BuildPlan | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> LatencyTable:
    """Measure the latency table of a space and write it to a file.

    On the CPU the blocks are timed inside whole networks, where they meet the caches as they will find them; each
    stands in several networks. Where a network runs as one (CUDA graphs, ``compiled``, ``onnxruntime``) each block is
    measured by itself, and some networks whole. The order is drawn at random, so that a drift of the machine spreads
    over all blocks, and everything takes turns with one reference network, by whose time it is scaled.

    An interrupted build goes on where it stopped when it is called again with the same arguments.

    Args:
        space: The space.
        settings: Device, batch, dtype, threads, runtime and layout.
        path: The table's file; measurements stand in ``<path>.partial`` until it is complete.
        input_size: Size of the images in pixels, see :meth:`Architecture.at_size`; each one's own by default.
        plan: How thoroughly.
        progress: Called with what is done, what there is to do, and what was measured.

    Raises:
        ValueError: What lies in ``<path>.partial`` belongs to another build.
        FileNotFoundError: The folder of ``path`` does not exist.
        IsADirectoryError: ``path`` is a folder.
        RuntimeError: The device has not the memory for a single network.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} does not exist; create it first")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    plan = plan or BuildPlan()
    in_blocks = runs_in_blocks(settings)
    networks = covering_networks(space, plan.contexts, plan.seed, input_size) if in_blocks else _drawn(space, plan.seed)
    reference = _reference(space, input_size, plan.seed)
    fingerprint = fingerprint_of(space, settings, input_size)
    header = {
        "kind": "header",
        "fingerprint": dataclasses.asdict(fingerprint),
        "plan": dataclasses.asdict(plan),
        "reference": reference.to_dict(),
    }
    journal = _Journal(path.with_name(f"{path.name}.partial"), header)
    journal.read()
    turns = TurnTaker(reference, settings, input_size)
    blocks = [] if in_blocks else list(VectorizedSpace(space, input_size).blocks)
    Random(plan.seed).shuffle(blocks)
    tasks = len(blocks) + len(networks)
    done = 0
    for block in blocks:
        if block not in journal.isolated and block not in journal.infeasible:
            _measure_block(journal, turns, space, block)
        done += 1
        if progress is not None:
            progress(done, tasks, str(block.op or block.kind))
    for architecture in networks:
        if architecture not in journal.networks and not _has(architecture, journal.infeasible, space, input_size):
            _measure_network(journal, turns, space, architecture, plan.time_limit_s)
        done += 1
        if progress is not None:
            progress(done, tasks, f"network {architecture.hash[:8]}")
    # Blocks that stood only in networks which the device could not run.
    for block in sorted(_unmeasured(journal, space, input_size), key=repr):
        _measure_block(journal, turns, space, block)
    if not journal.networks:
        raise RuntimeError(f"{settings.device} has not the memory for any of {len(networks)} networks of the space")
    table = _table(space, fingerprint, reference, journal)
    table.save(path)
    journal.path.unlink()
    return table


def _drawn(space: SpaceSpec, seed: int) -> list[Architecture]:
    rng = Random(seed)
    return list(dict.fromkeys(space.random(rng) for _ in range(_CALIBRATION_NETWORKS)))


def _reference(space: SpaceSpec, input_size: int | None, seed: int) -> Architecture:
    """Return a rather small network of the space: it runs as often as all others together."""
    rng = Random(seed)
    drawn = sorted((space.random(rng) for _ in range(16)), key=lambda a: space.cost(a.at_size(input_size)).macs)
    return drawn[3]


def _has(architecture: Architecture, blocks: Mapping[BlockSpec, str], space: SpaceSpec, input_size: int | None) -> bool:
    layout = get_backbone(space.backbone).layout(architecture.at_size(input_size))
    return any(block in blocks for block in layout.blocks)


def _unmeasured(journal: _Journal, space: SpaceSpec, input_size: int | None) -> set[BlockSpec]:
    family = get_backbone(space.backbone)
    timed = (family.layout(n.architecture.at_size(input_size)).blocks for n in journal.networks.values() if n.blocks_ms)
    known = {*journal.isolated, *journal.infeasible}.union(*timed)
    return set(VectorizedSpace(space, input_size).blocks) - known


def _measure_block(journal: _Journal, turns: TurnTaker, space: SpaceSpec, block: BlockSpec) -> None:
    module = get_backbone(space.backbone).build_block(block)
    try:
        latency_ms, reference_ms = turns.measure_block(module, (block.in_channels, *block.in_size))
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        journal.add(kind="infeasible", block=block_to_dict(block), reason="out of memory")
        return
    journal.add(kind="block", block=block_to_dict(block), latency_ms=latency_ms, reference_ms=reference_ms)


def _measure_network(
    journal: _Journal, turns: TurnTaker, space: SpaceSpec, architecture: Architecture, time_limit_s: float
) -> None:
    try:
        network = turns.measure(architecture, time_limit_s=time_limit_s)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        # Which of its blocks it was shows when they are run by themselves.
        for block in get_backbone(space.backbone).layout(architecture.at_size(turns.input_size)).blocks:
            if block not in journal.infeasible and block not in journal.isolated:
                _measure_block(journal, turns, space, block)
        return
    journal.add(kind="network", network=network_to_dict(network))


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _table(space: SpaceSpec, fingerprint: Any, reference: Architecture, journal: _Journal) -> LatencyTable:
    networks = tuple(journal.networks.values())
    usual = LatencyTable(space, fingerprint, reference, networks)
    within = usual.blocks_ms()
    isolated = {
        block: time_ms * usual.reference_ms / reference_ms
        for block, (time_ms, reference_ms) in journal.isolated.items()
        if block not in within
    }
    return dataclasses.replace(
        usual,
        isolated_ms=isolated,
        infeasible=journal.infeasible,
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
