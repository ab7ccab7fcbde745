"""The search configuration: one YAML file, read into dataclasses, every mistake reported at once."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from dicenas.cost import DTYPES, RUNTIMES, resolve_device
from dicenas.evaluation import DATASETS, DataConfig, TrainConfig, check_data
from dicenas.export import FORMATS
from dicenas.nets import list_backbones
from dicenas.ops import expand_candidates
from dicenas.pareto import DIRECTIONS, Direction, default_direction
from dicenas.space import SpaceSpec
from dicenas.spelling import did_you_mean

__all__ = [
    "CONSTRAINTS",
    "EVALUATORS",
    "SAMPLERS",
    "ConfigError",
    "ExportConfig",
    "LatencyConfig",
    "SearchConfig",
    "StudyConfig",
    "load_config",
    "parse_config",
]

#: Metrics that a constraint may bound: those known before an architecture is trained.
CONSTRAINTS = ("latency_ms", "macs", "params", "peak_memory_mb")
EVALUATORS = ("train",)
SAMPLERS = ("gp", "nsga2", "random", "tpe")


class ConfigError(ValueError):
    """A configuration that cannot be used.

    Attributes:
        problems: One line for each mistake: the key, what was given, what was expected.
    """

    def __init__(self, problems: list[str], source: str = "configuration") -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{source} has {count}:", *(f"  - {problem}" for problem in problems)]))


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
        table: Latency table to predict from; ``None`` measures every network.
    """

    device: str = "cpu"
    input_size: int | None = 224
    batch: int = 1
    runtime: str = "kernels"
    dtype: str = "float32"
    threads: int | None = 1
    table: None = None


@dataclass(frozen=True)
class StudyConfig:
    """How the space is walked; the ``search:`` section.

    Attributes:
        sampler: One of :data:`SAMPLERS`.
        trials: Trials of the whole study: a run that has them all adds none.
        seed: Seed of sampling and training.
    """

    sampler: str = "nsga2"
    trials: int = 24
    seed: int = 0


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
        space: The ``space:`` section; :meth:`space_spec` makes a space of it.
        data: Images to train and validate on.
        train: How a trial is trained.
        objectives: Direction of each objective; the first one decides which trial is best.
        constraints: Upper bounds on costs, checked before anything is trained.
        latency: Where and how latency is measured.
        search: How the space is walked.
        export: What is exported at the end.
    """

    name: str
    space: Mapping[str, Any]
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    objectives: Mapping[str, Direction] = field(
        default_factory=lambda: cast("dict[str, Direction]", {"accuracy": "maximize", "latency_ms": "minimize"})
    )
    constraints: Mapping[str, float] = field(default_factory=dict)
    latency: LatencyConfig = LatencyConfig()
    search: StudyConfig = StudyConfig()
    export: ExportConfig = ExportConfig()

    def space_spec(self, num_classes: int) -> SpaceSpec:
        """Return the space, for data of so many classes."""
        return SpaceSpec.from_config(self.space, num_classes=num_classes, image_size=self.data.image_size)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain data in the form of the file, defaults filled in."""
        data = dataclasses.asdict(self.data)
        data["root"] = None if self.data.root is None else str(self.data.root)
        del data["seed"]
        train = dataclasses.asdict(self.train)
        del train["seed"]
        return {
            "name": self.name,
            "space": _plain(self.space),
            "data": data,
            "evaluator": {"kind": "train", **train},
            "objectives": dict(self.objectives),
            "constraints": dict(self.constraints),
            "latency": dataclasses.asdict(self.latency),
            "search": dataclasses.asdict(self.search),
            "export": _plain(dataclasses.asdict(self.export)),
        }

    def to_yaml(self) -> str:
        """Return the configuration as YAML text, defaults filled in."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def load_config(path: str | Path) -> SearchConfig:
    """Read a search configuration.

    Raises:
        ConfigError: The file is missing or no YAML, or holds mistakes: all of them are listed.
    """
    source = str(path)
    try:
        given = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"cannot be read: {error}"], source) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"is no YAML: {' '.join(str(error).split())}"], source) from error
    return parse_config(given, source)


def parse_config(given: Any, source: str = "configuration") -> SearchConfig:
    """Read a search configuration from plain data, as YAML gives it.

    Args:
        given: The data, a mapping.
        source: What error messages call it.

    Raises:
        ConfigError: It holds mistakes: all of them are listed.
    """
    if not isinstance(given, Mapping):
        raise ConfigError([f"should hold a mapping with the keys {', '.join(_KEYS)}, got {given!r:.80}"], source)
    problems: list[str] = []
    _check_keys("", given, _KEYS, problems)
    if "name" not in given:
        problems.append("name is missing: what should the run and its folder be called?")
    name = _value("name", given.get("name", "unnamed"), _name, problems, default="unnamed")
    search = _section(StudyConfig, "search", given, _STUDY, problems)
    data = _section(DataConfig, "data", given, _DATA, problems, seed=search.seed)
    train = _section(TrainConfig, "evaluator", given, _EVALUATOR, problems, seed=search.seed)
    config = SearchConfig(
        name=name,
        space=_space(given.get("space"), data.image_size, problems),
        data=data,
        train=train,
        objectives=_objectives(given.get("objectives"), problems),
        constraints=_constraints(given.get("constraints"), problems),
        latency=_section(LatencyConfig, "latency", given, _LATENCY, problems),
        search=search,
        export=_section(ExportConfig, "export", given, _EXPORT, problems),
    )
    if not any(problem.startswith("data.") for problem in problems):
        problems += [f"data: {problem}" for problem in check_data(data)]
    if len(config.space.get("resolutions", ())) > 1 and config.latency.input_size is not None:
        problems.append(
            "latency.input_size must be null where space.resolutions are searched: "
            "each network's costs are taken at its own resolution"
        )
    if problems:
        raise ConfigError(problems, source)
    return config


# Values: each reader returns the value or raises ValueError with what it expected.

_Reader = Callable[[Any], Any]


def _name(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise ValueError("a name of letters, digits, '.', '_' and '-', usable as a folder")
    return value


def _integer(minimum: int) -> _Reader:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ValueError(f"an integer of at least {minimum}")
        return value

    return read


def _number(minimum: float = 0.0, maximum: float = math.inf, *, above: bool = False) -> _Reader:
    """Read a number from ``minimum`` to ``maximum``, greater than ``minimum`` where ``above`` is set."""
    bound = "greater than" if above else "of at least"
    expected = f"a number {bound} {minimum:g}" + ("" if maximum == math.inf else f" and at most {maximum:g}")

    def read(value: Any) -> float:
        # YAML 1.1 takes 60.0e6 for text, since its exponent has no sign.
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not minimum <= number <= maximum or (above and number == minimum) or math.isinf(number):
            raise ValueError(expected)
        return number

    return read


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _one_of(*names: str) -> _Reader:
    def read(value: Any) -> Any:
        if value not in names:
            raise ValueError(f"one of {', '.join(names)}{did_you_mean(value, names)}")
        return value

    return read


def _optional(reader: _Reader) -> _Reader:
    def read(value: Any) -> Any:
        return None if value is None else reader(value)

    return read


def _path(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a path")
    return value


def _device(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a device such as cpu or cuda:0")
    resolve_device(value)
    return value


def _no_table(value: Any) -> None:
    if value is not None:
        raise ValueError("null: every network is measured; this version reads no latency tables")


def _trial(value: Any) -> str | int:
    if value == "best" or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return cast("str | int", value)
    raise ValueError("best, or the number of a trial")


def _formats(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"a list of formats, some of {', '.join(FORMATS)}")
    for name in value:
        _one_of(*FORMATS)(name)
    return tuple(value)


_STUDY: dict[str, _Reader] = {"sampler": _one_of(*SAMPLERS), "trials": _integer(1), "seed": _integer(0)}
_DATA: dict[str, _Reader] = {
    "dataset": _one_of(*DATASETS),
    "root": _optional(_path),
    "image_size": _integer(8),
    "train_limit": _optional(_integer(2)),
    "val_limit": _optional(_integer(2)),
    "val_fraction": _number(0, 0.9, above=True),
}
_EVALUATOR: dict[str, _Reader] = {
    "kind": _one_of(*EVALUATORS),
    "epochs": _integer(1),
    "batch": _integer(2),
    "learning_rate": _number(above=True),
    "weight_decay": _number(),
    "momentum": _number(0, 1),
    "max_grad_norm": _number(above=True),
    "label_smoothing": _number(0, 1),
    "threads": _optional(_integer(1)),
    "augment": _flag,
}
_LATENCY: dict[str, _Reader] = {
    "device": _device,
    "input_size": _optional(_integer(8)),
    "batch": _integer(1),
    "runtime": _one_of(*RUNTIMES),
    "dtype": _one_of(*DTYPES),
    "threads": _optional(_integer(1)),
    "table": _no_table,
}
_EXPORT: dict[str, _Reader] = {"trial": _trial, "formats": _formats}
_KEYS = ("name", "space", "data", "evaluator", "objectives", "constraints", "latency", "search", "export")


# Sections

_Section = TypeVar("_Section")


def _section(
    kind: type[_Section],
    name: str,
    config: Mapping[str, Any],
    readers: Mapping[str, _Reader],
    problems: list[str],
    **fixed: Any,
) -> _Section:
    """Read a section into its dataclass; what is wrong in it keeps its default and is reported."""
    given = config.get(name)
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        problems.append(f"{name} = {given!r:.80}: expected a mapping with the keys {', '.join(readers)}")
        given = {}
    _check_keys(f"{name}.", given, tuple(readers), problems)
    values = dict(fixed)
    fields = {declared.name: declared.default for declared in dataclasses.fields(cast(Any, kind))}
    for key, reader in readers.items():
        if key in given:
            value = _value(f"{name}.{key}", given[key], reader, problems, default=fields.get(key))
            if key in fields:  # `evaluator.kind` chooses the dataclass and is no part of it
                values[key] = value
    try:
        return kind(**values)
    except ValueError as error:  # a dataclass that checks its values itself
        problems += [f"{name}.{line}" for line in str(error).splitlines()]
        return kind(**fixed)


def _check_keys(prefix: str, given: Mapping[Any, Any], known: tuple[str, ...], problems: list[str]) -> None:
    problems += [
        f"unknown key {prefix}{key}{did_you_mean(key, known)} (known: {', '.join(known)})"
        for key in given
        if key not in known
    ]


def _value(key: str, given: Any, reader: _Reader, problems: list[str], default: Any) -> Any:
    try:
        return reader(given)
    except (ValueError, RuntimeError) as error:
        problems.append(f"{key} = {given!r:.80}: expected {error}")
        return default


def _space(given: Any, image_size: int, problems: list[str]) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        known = ", ".join(list_backbones())
        problems.append(f"space = {given!r:.80}: expected a mapping with at least a backbone, one of {known}")
        return {}
    mistakes = list(_space_mistakes(given, image_size))
    problems += mistakes
    return {} if mistakes else given


def _space_mistakes(given: Mapping[str, Any], image_size: int) -> Iterator[str]:
    """Yield what is wrong in a ``space:`` section, value by value, so that one mistake does not hide another."""

    def mistake(section: Mapping[str, Any]) -> str | None:
        try:
            # How many classes there are changes nothing in what is checked here.
            SpaceSpec.from_config(section, num_classes=2, image_size=image_size)
        except (ValueError, TypeError) as error:
            return str(error)
        return None

    def unknown_op(ops: list[Any]) -> str | None:
        try:
            expand_candidates(ops)
        except (ValueError, TypeError) as error:
            return str(error)
        return None

    base = {key: given[key] for key in ("backbone",) if key in given}
    if problem := mistake(base):
        yield f"space.backbone: {problem}"
        base = {"backbone": list_backbones()[0]}
        given = {key: value for key, value in given.items() if key not in ("backbone", "depths")}
    found = False
    for key, value in given.items():
        several = isinstance(value, list) and value and key in ("ops", "widths", "stem", "resolutions")
        for part in [[item] for item in value] if several else [value]:
            # One op need not fit everywhere by itself: of each it is only asked whether it exists.
            problem = unknown_op(part) if several and key == "ops" else mistake({**base, key: part})
            if key != "backbone" and problem:
                found = True
                yield f"space.{key}: {problem}"
    # What is right value by value can still be wrong together: an op given twice, or none that fits into a block.
    if not found and (problem := mistake({**base, **given})):
        yield f"space: {problem}"


def _objectives(given: Any, problems: list[str]) -> dict[str, Direction]:
    defaults: dict[str, Direction] = {"accuracy": "maximize", "latency_ms": "minimize"}
    if given is None:
        return defaults
    if isinstance(given, list):
        given = {name: default_direction(str(name)) for name in given}
    if not isinstance(given, Mapping) or not given:
        problems.append(f"objectives = {given!r:.80}: expected a mapping such as accuracy: maximize")
        return defaults
    _check_keys("objectives.", given, tuple(DIRECTIONS), problems)
    for name, direction in given.items():
        _value(f"objectives.{name}", direction, _one_of("maximize", "minimize"), problems, default=None)
    return dict(given)


def _constraints(given: Any, problems: list[str]) -> dict[str, float]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        problems.append(f"constraints = {given!r:.80}: expected a mapping such as macs: 60.0e6")
        return {}
    _check_keys("constraints.", given, CONSTRAINTS, problems)
    return {
        name: _value(f"constraints.{name}", bound, _number(above=True), problems, default=math.inf)
        for name, bound in given.items()
    }


def _plain(value: Any) -> Any:
    """Return nested mappings and sequences as dictionaries and lists."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
