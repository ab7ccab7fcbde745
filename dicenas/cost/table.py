"""Measured latencies of the blocks and of whole networks of a space on one device: the data and its file.

The file is JSON (``docs/latency.md`` describes it): what was measured under ``fingerprint``, ``networks`` and
``blocks``, and a ``checksum`` over everything else, so that a file that was cut off or edited is noticed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dicenas.architecture import Architecture
from dicenas.cost.device import device_name, resolve_device
from dicenas.cost.runtimes import LatencySettings
from dicenas.files import atomic_write_text
from dicenas.nets.backbone import BlockSpec, get_backbone
from dicenas.ops import kernels
from dicenas.space import SpaceSpec

__all__ = [
    "TABLE_SCHEMA_VERSION",
    "Fingerprint",
    "LatencyTable",
    "NetworkLatency",
    "TableMismatchError",
    "block_from_dict",
    "block_to_dict",
    "fingerprint_of",
    "network_from_dict",
    "network_to_dict",
]

#: Version of the file's form; raised when a field is added, renamed or changes its meaning.
TABLE_SCHEMA_VERSION = 1


class TableMismatchError(ValueError):
    """A table was measured on another device, under other settings, or for another space."""


@dataclass(frozen=True)
class Fingerprint:
    """What a table was measured on and under; latencies from elsewhere say little about networks here.

    Attributes:
        device_name: Model of the device.
        device: Kind of device, ``"cpu"`` or ``"cuda"``.
        runtime: Runtime, see :data:`~dicenas.cost.RUNTIMES`.
        native_kernels: Whether the kernels for the device were loaded.
        dtype: Number type.
        memory_format: Layout of the tensors.
        batch: Images in a batch.
        threads: CPU threads.
        input_size: Size of the images in pixels; None where each architecture's own was taken.
        torch_version: Version of torch; tables go from one minor version to another, not beyond.
        space: Fingerprint of the space.
    """

    device_name: str
    device: str
    runtime: str
    native_kernels: bool
    dtype: str
    memory_format: str
    batch: int
    threads: int
    input_size: int | None
    torch_version: str
    space: str

    def differences(self, other: Fingerprint) -> list[str]:
        """Return what differs, as ``"batch: 1 here, 8 there"``."""
        found = []
        for name, here in dataclasses.asdict(self).items():
            there = getattr(other, name)
            same = here.partition(".")[0] == there.partition(".")[0] if name == "torch_version" else here == there
            if not same:
                found.append(f"{name}: {here} here, {there} in the table")
        return found


def fingerprint_of(space: SpaceSpec, settings: LatencySettings, input_size: int | None) -> Fingerprint:
    """Return what a table for a space would be measured on and under, here and now."""
    device = resolve_device(settings.device)
    return Fingerprint(
        device_name=device_name(device),
        device=device.type,
        runtime=settings.runtime,
        native_kernels=kernels.available(device.type) and settings.runtime != "eager",
        dtype=settings.dtype,
        memory_format=settings.memory_format,
        batch=settings.batch,
        threads=settings.threads or torch.get_num_threads(),
        input_size=input_size,
        torch_version=torch.__version__,
        space=space.fingerprint,
    )


@dataclass(frozen=True)
class NetworkLatency:
    """A network that was measured whole, in turns with the table's reference network.

    Attributes:
        architecture: The network, as a point of the space.
        latency_ms: Lower quartile of the times of a forward pass of the batch.
        reference_ms: The same of the reference network in the same turns.
        blocks_ms: Time of each block within the network, in the order of its layout, together ``latency_ms``; None
            where a runtime runs the network as one.
    """

    architecture: Architecture
    latency_ms: float
    reference_ms: float
    blocks_ms: tuple[float, ...] | None


@dataclass(frozen=True)
class LatencyTable:
    """Latencies measured for a space.

    Attributes:
        space: The space.
        fingerprint: What it was measured on and under.
        reference: The network that took turns with all others; its time tells how fast the machine was just then.
        networks: Networks measured whole, with the times of their blocks where the runtime gives them.
        isolated_ms: Blocks that were measured by themselves, scaled to the reference network's usual time.
        infeasible: Blocks that the device could not run, and why.
        measured_at: When the last measurement was made, in UTC.
    """

    space: SpaceSpec
    fingerprint: Fingerprint
    reference: Architecture
    networks: tuple[NetworkLatency, ...]
    isolated_ms: Mapping[BlockSpec, float] = field(default_factory=dict)
    infeasible: Mapping[BlockSpec, str] = field(default_factory=dict)
    measured_at: str = ""

    @cached_property
    def reference_ms(self) -> float:
        """The reference network's usual time: the median over all measurements."""
        return statistics.median(network.reference_ms for network in self.networks)

    def scaled_ms(self, network: NetworkLatency) -> float:
        """Return a network's latency as if the machine had been as fast as it usually was."""
        return network.latency_ms * self.reference_ms / network.reference_ms

    def blocks_ms(self, networks: Collection[NetworkLatency] | None = None) -> dict[BlockSpec, float]:
        """Return the time of each block: the median over the networks that it was measured in, else its time alone.

        Args:
            networks: Take these networks alone, to see how well the others are predicted.
        """
        found: dict[BlockSpec, list[float]] = {}
        for network in self.networks if networks is None else networks:
            if network.blocks_ms is None:
                continue
            scale = self.reference_ms / network.reference_ms
            for block, time_ms in zip(self.blocks_of(network.architecture), network.blocks_ms, strict=True):
                found.setdefault(block, []).append(time_ms * scale)
        # Where a block was timed within networks, that counts.
        return {**self.isolated_ms, **{block: statistics.median(times) for block, times in found.items()}}

    def blocks_of(self, architecture: Architecture) -> tuple[BlockSpec, ...]:
        """Return the blocks of a network at the size at which the table was measured."""
        found = self._measured_blocks.get(architecture)
        return self._layout(architecture) if found is None else found

    @cached_property
    def _measured_blocks(self) -> dict[Architecture, tuple[BlockSpec, ...]]:
        """The blocks of the networks that were measured, which a fit asks for over and over."""
        return {network.architecture: self._layout(network.architecture) for network in self.networks}

    def _layout(self, architecture: Architecture) -> tuple[BlockSpec, ...]:
        sized = architecture.at_size(self.fingerprint.input_size)
        return get_backbone(architecture.backbone).layout(sized).blocks

    def check(self, wanted: Fingerprint, *, allow_mismatch: bool = False) -> list[str]:
        """Return how the table differs from what is wanted, which is nothing unless ``allow_mismatch`` is set.

        Raises:
            TableMismatchError: It differs; the message shows in what.
        """
        differences = wanted.differences(self.fingerprint)
        if differences and not allow_mismatch:
            raise TableMismatchError(
                "the latency table was measured under other conditions:\n  " + "\n  ".join(differences) + "\n"
                "measure one here (dicenas latency build), or use this one all the same (--allow-mismatch, or "
                "allow_mismatch: true in the latency section)"
            )
        return differences

    def to_dict(self) -> dict[str, Any]:
        """Return the table as plain data, with the checksum."""
        blocks_ms = self.blocks_ms()
        data: dict[str, Any] = {
            "schema_version": TABLE_SCHEMA_VERSION,
            "fingerprint": dataclasses.asdict(self.fingerprint),
            "measured_at": self.measured_at,
            "space": self.space.to_dict(),
            "reference": self.reference.to_dict(),
            "reference_ms": self.reference_ms,
            "blocks": [
                {"block": block_to_dict(block), "latency_ms": time_ms, "isolated": block in self.isolated_ms}
                for block, time_ms in blocks_ms.items()
            ],
            "infeasible": [
                {"block": block_to_dict(block), "reason": reason} for block, reason in self.infeasible.items()
            ],
            "networks": [network_to_dict(network) for network in self.networks],
        }
        return {**data, "checksum": _checksum(data)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LatencyTable:
        """Read what :meth:`to_dict` gives.

        Raises:
            ValueError: It is no table, was cut off or edited, or holds a time that is no positive number.
        """
        if not isinstance(data, Mapping) or "schema_version" not in data:
            raise ValueError("this is no latency table")
        if data["schema_version"] != TABLE_SCHEMA_VERSION:
            raise ValueError(
                f"latency table has schema version {data['schema_version']!r}, this dicenas reads "
                f"{TABLE_SCHEMA_VERSION}; build the table anew, or use the version of dicenas that wrote it"
            )
        content = {key: value for key, value in data.items() if key != "checksum"}
        if data.get("checksum") != _checksum(content):
            raise ValueError("the checksum does not match: the latency table was changed after it was measured")
        table = cls(
            space=SpaceSpec(**data["space"]),
            fingerprint=Fingerprint(**data["fingerprint"]),
            reference=Architecture.from_dict(data["reference"]),
            networks=tuple(map(network_from_dict, data["networks"])),
            isolated_ms={
                block_from_dict(entry["block"]): entry["latency_ms"] for entry in data["blocks"] if entry["isolated"]
            },
            infeasible={block_from_dict(entry["block"]): entry["reason"] for entry in data["infeasible"]},
            measured_at=data["measured_at"],
        )
        table._check_times(data["blocks"])
        blocks_ms = table.blocks_ms()
        for entry in data["blocks"]:
            follows = blocks_ms.get(block_from_dict(entry["block"]))
            if follows is None or not math.isclose(follows, entry["latency_ms"], rel_tol=1e-9):
                raise ValueError(
                    f"the latency table gives {entry['latency_ms']} ms for {entry['block']}, its measurements {follows}"
                )
        return table

    def _check_times(self, blocks: Sequence[Mapping[str, Any]]) -> None:
        times = [entry["latency_ms"] for entry in blocks]
        for network in self.networks:
            times += [network.latency_ms, network.reference_ms, *(network.blocks_ms or ())]
        for time_ms in times:
            if not isinstance(time_ms, int | float) or not 0 < time_ms < math.inf:
                raise ValueError(f"the latency table holds a time of {time_ms!r} ms, which is no positive number")

    def save(self, path: str | Path) -> None:
        """Write the table to a JSON file; the whole file appears or none."""
        atomic_write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read a table's file.

        Raises:
            ValueError: As :meth:`from_dict`, or the file is no JSON; the message names the file.
            OSError: The file cannot be read.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from error


def block_to_dict(block: BlockSpec) -> dict[str, Any]:
    """Return a block as plain data; fields at their defaults are left out."""
    return {
        field.name: getattr(block, field.name)
        for field in dataclasses.fields(block)
        if getattr(block, field.name) != field.default
    }


def block_from_dict(data: Mapping[str, Any]) -> BlockSpec:
    """Read what :func:`block_to_dict` gives, also after a passage through JSON."""
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
    return BlockSpec(**fields)


def network_to_dict(network: NetworkLatency) -> dict[str, Any]:
    """Return a measured network as plain data."""
    return {**dataclasses.asdict(network), "architecture": network.architecture.to_dict()}


def network_from_dict(data: Mapping[str, Any]) -> NetworkLatency:
    """Read a measured network."""
    return NetworkLatency(
        architecture=Architecture.from_dict(data["architecture"]),
        latency_ms=data["latency_ms"],
        reference_ms=data["reference_ms"],
        blocks_ms=None if data["blocks_ms"] is None else tuple(data["blocks_ms"]),
    )


def _checksum(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
