"""What a search configuration holds: one dataclass a section."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import yaml

from dicenas.config.evaluator import TrialLimits, evaluator_section, proxy_section
from dicenas.config.final import FinalConfig, final_section
from dicenas.evaluation import (
    DataConfig,
    EvaluatorConfig,
    ProxyConfig,
    TabularConfig,
    TrainEvaluatorConfig,
    TrainingTable,
    load_data,
)
from dicenas.pareto import Direction
from dicenas.space import SpaceSpec

__all__ = [
    "CONSTRAINTS",
    "SAMPLERS",
    "ExportConfig",
    "LatencyConfig",
    "SearchConfig",
    "StudyConfig",
    "plain",
]

#: Metrics that a constraint may bound: those known before an architecture is trained.
CONSTRAINTS = ("latency_ms", "macs", "params", "peak_memory_mb", "proxy_rank")
#: Samplers of :mod:`dicenas.strategies`, named here too since importing that takes seconds.
SAMPLERS = ("evolution", "gp", "nsga2", "nsga3", "predictor", "random", "tpe")


#: Value of ``latency.table`` for a table of the run's own.
BUILD_TABLE = "build"


@dataclass(frozen=True)
class LatencyConfig:
    """Where and how latency is measured; the ``latency:`` section.

    Attributes:
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        input_size: Image size in pixels at which latency and the other costs are taken, the size of deployment;
            ``None`` takes each architecture's own.
        batch: Images a forward pass.
        runtime: One of :data:`dicenas.cost.RUNTIMES`.
        dtype: One of :data:`dicenas.cost.DTYPES`.
        threads: CPU threads, ``None`` for torch's own number.
        table: File of a latency table to predict from; :data:`BUILD_TABLE` measures one into the run folder before
            the search; ``None`` measures every network whole.
        allow_mismatch: Use a table that was measured under other conditions.
    """

    device: str = "cpu"
    input_size: int | None = 224
    batch: int = 1
    runtime: str = "kernels"
    dtype: str = "float32"
    threads: int | None = 1
    table: str | None = None
    allow_mismatch: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the section as plain data, without what is only told where it is wanted."""
        section = dataclasses.asdict(self)
        if not self.allow_mismatch:
            del section["allow_mismatch"]
        return section


@dataclass(frozen=True)
class StudyConfig:
    """How the space is walked; the ``search:`` section.

    Attributes:
        sampler: One of :data:`SAMPLERS`.
        trials: Trials of the whole study: a run that has them all adds none.
        seed: Seed of sampling and training.
        first: Networks that are evaluated before anything is proposed: names of published ones, or architecture files;
            points of the space once they have its image size, classes and stem.
        first_from_proxy: How many of the proxies' reference sample, the most promising by their score and by the
            objectives that are costs, are evaluated after these.
    """

    sampler: str = "nsga2"
    trials: int = 24
    seed: int = 0
    first: tuple[str, ...] = ()
    first_from_proxy: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the section as plain data, without what is only told where it is wanted."""
        section = {**dataclasses.asdict(self), "first": list(self.first)}
        for key in ("first", "first_from_proxy"):
            if not section[key]:
                del section[key]
        return section


@dataclass(frozen=True)
class ExportConfig:
    """What is exported at the end; the ``export:`` section.

    Attributes:
        trial: ``"best"`` or the number of a trial.
        formats: Some of :data:`dicenas.export.FORMATS`.
    """

    trial: str | int = "best"
    formats: tuple[str, ...] = ("py", "safetensors")


@dataclass(frozen=True)
class SearchConfig:
    """A whole search.

    Attributes:
        name: Name of the run and of its folder.
        space: The ``space:`` section; :meth:`space_spec` makes a space of it. Empty where a table is replayed, which
            says its space itself.
        data: Images to train and validate on; ``None`` where a table is replayed.
        evaluator: How an architecture is evaluated; the ``evaluator:`` section, with ``limits``.
        limits: What ends an evaluation before its end.
        proxy: The ``proxy:`` section: what scores architectures before they are evaluated, where a constraint on
            ``proxy_rank`` or ``search.first_from_proxy`` asks for it.
        objectives: Direction of each objective; the first one decides which trial is best.
        constraints: Upper bounds on costs, checked before anything is trained.
        latency: Where and how latency is measured.
        search: How the space is walked.
        export: What is exported at the end.
        final: What is trained for real at the end; ``None`` for nothing.
    """

    name: str
    space: Mapping[str, Any]
    data: DataConfig | None = field(default_factory=DataConfig)
    evaluator: EvaluatorConfig = field(default_factory=TrainEvaluatorConfig)
    proxy: ProxyConfig | None = None
    limits: TrialLimits = field(default_factory=TrialLimits)
    objectives: Mapping[str, Direction] = field(
        default_factory=lambda: cast("dict[str, Direction]", {"accuracy": "maximize", "latency_ms": "minimize"})
    )
    constraints: Mapping[str, float] = field(default_factory=dict)
    latency: LatencyConfig = LatencyConfig()
    search: StudyConfig = StudyConfig()
    export: ExportConfig = ExportConfig()
    final: FinalConfig | None = None

    def space_spec(self, num_classes: int | None = None) -> SpaceSpec:
        """Return the space.

        Args:
            num_classes: Classes of the data, which is read for them where they are not given.

        Raises:
            ValueError: The data cannot be read, or the table that is replayed.
        """
        if isinstance(self.evaluator, TabularConfig):
            return TrainingTable(self.evaluator.path).space
        assert self.data is not None
        if num_classes is None:
            num_classes = load_data(self.data).num_classes
        return SpaceSpec.from_config(self.space, num_classes=num_classes, image_size=self.data.image_size)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain data in the form of the file, defaults filled in."""
        inputs: dict[str, Any] = {}
        if self.data is not None:
            data = dataclasses.asdict(self.data)
            data["root"] = None if self.data.root is None else str(self.data.root)
            del data["seed"]
            inputs = {"space": plain(self.space), "data": data}
        return {
            "name": self.name,
            **inputs,
            "evaluator": plain(evaluator_section(self.evaluator, self.limits)),
            **({} if self.proxy is None else {"proxy": proxy_section(self.proxy)}),
            "objectives": dict(self.objectives),
            "constraints": dict(self.constraints),
            "latency": self.latency.to_dict(),
            "search": self.search.to_dict(),
            "export": plain(dataclasses.asdict(self.export)),
            **({} if self.final is None else {"final": plain(final_section(self.final))}),
        }

    def to_yaml(self) -> str:
        """Return the configuration as YAML text, defaults filled in."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def plain(value: Any) -> Any:
    """Return nested mappings and sequences as dictionaries and lists."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
