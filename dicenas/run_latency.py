"""Where a search has its latencies from: networks measured one by one, or a table of their blocks."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Protocol

import torch
from tqdm import tqdm

from dicenas.architecture import Architecture
from dicenas.config.schema import BUILD_TABLE, LatencyConfig
from dicenas.cost import DTYPES, LatencyResult, LatencySettings, measure_latency, network_peak_memory_mb
from dicenas.cost.build import build_table
from dicenas.cost.predict import LatencyPredictor, fit_predictor
from dicenas.cost.table import Fingerprint, LatencyTable, fingerprint_of
from dicenas.nets import build
from dicenas.runs import RunFolder
from dicenas.space import SpaceSpec
from dicenas.space.vectorized import VectorizedSpace

__all__ = ["GivenLatency", "LatencySource", "MeasuredLatency", "TableLatency", "latency_source", "peak_memory"]

logger = logging.getLogger(__name__)


class LatencySource(Protocol):
    """Gives the latencies of a search."""

    @property
    def input_size(self) -> int | None:
        """Image size at which latency and the other costs are taken; None for each architecture's own."""

    @property
    def ready(self) -> bool:
        """Whether latencies can be had at once, before the run folder is there."""

    def __call__(self, architecture: Architecture) -> float:
        """Return the latency of an architecture in milliseconds."""

    def details(self, architecture: Architecture) -> dict[str, float]:
        """Return what else is known of a latency that was asked for, as metrics of the trial."""

    def front_metrics(self) -> dict[str, Callable[[Architecture], float]]:
        """Return what to measure of the networks on the front at the end, by the metric's name."""


class GivenLatency:
    """A function of the user's own.

    Args:
        function: Gives an architecture's latency in milliseconds.
    """

    input_size = None
    ready = True

    def __init__(self, function: Callable[[Architecture], float]) -> None:
        self._function = cache(function)

    def __call__(self, architecture: Architecture) -> float:
        return self._function(architecture)

    def details(self, architecture: Architecture) -> dict[str, float]:
        return {}

    def front_metrics(self) -> dict[str, Callable[[Architecture], float]]:
        return {}


class MeasuredLatency:
    """Measures architectures where and how a configuration says, each once.

    Args:
        config: Device, runtime, batch, ...
    """

    ready = True

    def __init__(self, config: LatencyConfig) -> None:
        self.config = config
        self._results: dict[Architecture, LatencyResult] = {}

    @property
    def input_size(self) -> int | None:
        return self.config.input_size

    def __call__(self, architecture: Architecture) -> float:
        if architecture not in self._results:
            deployed = architecture.at_size(self.config.input_size)
            in_shape = (deployed.in_channels, *deployed.image_size)
            settings = dataclasses.asdict(_settings(self.config))
            self._results[architecture] = measure_latency(build(deployed), in_shape, **settings)
        return self._results[architecture].latency_ms

    def details(self, architecture: Architecture) -> dict[str, float]:
        result = self._results.get(architecture)
        return {} if result is None else {"latency_p25_ms": result.p25_ms, "latency_p75_ms": result.p75_ms}

    def front_metrics(self) -> dict[str, Callable[[Architecture], float]]:
        if self.config.runtime == "eager":
            return {}
        return {"latency_eager_ms": MeasuredLatency(dataclasses.replace(self.config, runtime="eager"))}


class TableLatency:
    """Predicts latencies from a table, which it builds in the run folder where the configuration names none.

    Args:
        config: Device, runtime, batch, ...; ``table`` is a path, or ``"build"``.
        space: The space that is searched.
        run: The run folder.

    Raises:
        ValueError: The table cannot be read, or was measured under other conditions and ``allow_mismatch`` is not
            set.
    """

    def __init__(self, config: LatencyConfig, space: SpaceSpec, run: RunFolder) -> None:
        assert config.table is not None
        self.config = config
        self._space = space
        self._path = run.path / "latency.json" if config.table == BUILD_TABLE else Path(config.table)
        if config.table != BUILD_TABLE:
            self._predictor  # noqa: B018 (a table that does not fit is refused before anything is written)

    @property
    def input_size(self) -> int | None:
        return self.config.input_size

    @property
    def ready(self) -> bool:
        return self._path.is_file()

    @cached_property
    def _predictor(self) -> LatencyPredictor:
        table = LatencyTable.load(self._path) if self._path.is_file() else self._build()
        for difference in table.check(self._wanted(table), allow_mismatch=self.config.allow_mismatch):
            logger.warning("latency table %s: %s", self._path, difference)
        predictor = fit_predictor(table)
        known = {*predictor.features, *table.infeasible}
        missing = [b for b in VectorizedSpace(self._space, self.config.input_size).blocks if b not in known]
        if missing:
            raise ValueError(
                f"latency table {self._path} lacks {len(missing)} blocks of this space, such as {missing[0]}; "
                "build one for it (dicenas latency build)"
            )
        deviation = predictor.cross_validation[predictor.form]
        off = f"off by {deviation:.1%} (RMS)" if math.isfinite(deviation) else "too few networks to say how far off"
        logger.info("latencies from %s: %s, %s", self._path, predictor.form, off)
        return predictor

    def _build(self) -> LatencyTable:
        if self.config.table != BUILD_TABLE:
            raise FileNotFoundError(f"latency.table: there is no file {self._path}; dicenas latency build makes one")
        with tqdm(desc="latency table", unit="network") as bar:
            start = time.monotonic()

            def progress(done: int, tasks: int, what: str) -> None:
                if bar.n == 0:
                    minutes = (time.monotonic() - start) / done * tasks / 60
                    bar.write(
                        f"the latency table comes first: {tasks} measurements, about {max(1, round(minutes))} min"
                    )
                bar.total = tasks
                bar.update(done - bar.n)

            settings = _settings(self.config)
            return build_table(self._space, settings, self._path, input_size=self.config.input_size, progress=progress)

    def _wanted(self, table: LatencyTable) -> Fingerprint:
        """Return what the table should have been measured on; a device that is not here cannot be compared."""
        if _is_here(self.config.device):
            return fingerprint_of(self._space, _settings(self.config), self.config.input_size)
        here = fingerprint_of(
            self._space, _settings(dataclasses.replace(self.config, device="cpu")), self.config.input_size
        )
        return dataclasses.replace(
            here,
            device=torch.device(self.config.device).type,
            device_name=table.fingerprint.device_name,
            native_kernels=table.fingerprint.native_kernels,
            torch_version=table.fingerprint.torch_version,
        )

    def __call__(self, architecture: Architecture) -> float:
        return self._predictor.predict(architecture).latency_ms

    def details(self, architecture: Architecture) -> dict[str, float]:
        deviation_ms = self._predictor.predict(architecture).deviation_ms
        return {"latency_deviation_ms": deviation_ms} if math.isfinite(deviation_ms) else {}

    def front_metrics(self) -> dict[str, Callable[[Architecture], float]]:
        if not _is_here(self.config.device):
            return {}
        measured = MeasuredLatency(self.config)
        return {"latency_measured_ms": measured, **measured.front_metrics()}


def latency_source(
    latency: LatencyConfig | Callable[[Architecture], float], space: SpaceSpec, run: RunFolder
) -> LatencySource:
    """Return where a search has its latencies from.

    Raises:
        ValueError: The table of the configuration cannot be used.
    """
    if not isinstance(latency, LatencyConfig):
        return GivenLatency(latency)
    return MeasuredLatency(latency) if latency.table is None else TableLatency(latency, space, run)


def peak_memory(latency: LatencyConfig | Callable[[Architecture], float]) -> Callable[[Architecture], float]:
    """Return what gives an architecture's ``peak_memory_mb`` where and as it is deployed.

    On a device that is not here it is computed as for the CPU.
    """
    config = latency if isinstance(latency, LatencyConfig) else LatencyConfig(input_size=None)
    device = config.device if _is_here(config.device) else "cpu"

    @cache
    def of(architecture: Architecture) -> float:
        deployed = architecture.at_size(config.input_size)
        return network_peak_memory_mb(deployed, device=device, batch=config.batch, dtype=DTYPES[config.dtype])

    return of


def _settings(config: LatencyConfig) -> LatencySettings:
    return LatencySettings(config.device, config.batch, config.dtype, config.threads, config.runtime)


def _is_here(device: str) -> bool:
    return device == "cpu" or torch.cuda.is_available()
