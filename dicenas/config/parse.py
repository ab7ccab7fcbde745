"""Reading a search configuration: every mistake is found and reported at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from dicenas.config import values
from dicenas.config.evaluator import evaluator_kind, read_evaluator, read_proxy
from dicenas.config.final import read_final
from dicenas.config.schema import (
    BUILD_TABLE,
    CONSTRAINTS,
    SAMPLERS,
    ExportConfig,
    LatencyConfig,
    SearchConfig,
    StudyConfig,
)
from dicenas.config.section import as_section, check_keys, read_value, read_values
from dicenas.config.values import Reader
from dicenas.config.yaml_text import read_yaml
from dicenas.cost import DTYPES, RUNTIMES, resolve_device
from dicenas.evaluation import DATASETS, DataConfig, EvaluatorConfig, ProxyConfig, TabularConfig, check_data
from dicenas.nets import list_backbones
from dicenas.ops import expand_candidates
from dicenas.pareto import DIRECTIONS, Direction, default_direction
from dicenas.space import SpaceSpec

__all__ = ["ConfigError", "load_config", "parse_config"]

_Section = TypeVar("_Section")

_STUDY: dict[str, Reader] = {
    "sampler": values.one_of(*SAMPLERS),
    "trials": values.integer(1),
    "seed": values.integer(0),
    "first": values.networks,
    "first_from_proxy": values.integer(0),
}
_DATA: dict[str, Reader] = {
    "dataset": values.one_of(*DATASETS),
    "root": values.optional(values.path),
    "image_size": values.integer(8),
    "train_limit": values.optional(values.integer(2)),
    "val_limit": values.optional(values.integer(2)),
    "val_fraction": values.number(0, 0.9, above=True),
}
_LATENCY: dict[str, Reader] = {
    "device": values.device,
    "input_size": values.optional(values.integer(8)),
    "batch": values.integer(1),
    "runtime": values.one_of(*RUNTIMES),
    "dtype": values.one_of(*DTYPES),
    "threads": values.optional(values.integer(1)),
    "table": values.optional(values.path),
    "allow_mismatch": values.flag,
}
_EXPORT: dict[str, Reader] = {"trial": values.trial, "formats": values.formats}
_KEYS = (
    *("name", "space", "data", "evaluator", "proxy", "objectives", "constraints", "latency", "search", "export"),
    "final",
)


class ConfigError(ValueError):
    """A configuration that cannot be used.

    Attributes:
        problems: One line for each mistake: the key, what was given, what was expected.
    """

    def __init__(self, problems: list[str], source: str = "configuration") -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{source} has {count}:", *(f"  - {problem}" for problem in problems)]))


def load_config(path: str | Path) -> SearchConfig:
    """Read a search configuration.

    Raises:
        ConfigError: The file is missing or no YAML, or holds mistakes: all of them are listed.
    """
    source = str(path)
    try:
        given, repeated = read_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"cannot be read: {error}"], source) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"is no YAML: {' '.join(str(error).split())}"], source) from error
    try:
        config = parse_config(given, source)
    except ConfigError as error:
        raise ConfigError([*repeated, *error.problems], source) from None
    if repeated:
        raise ConfigError(repeated, source)
    return config


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
    check_keys("", given, _KEYS, problems)
    if "name" not in given:
        problems.append("name is missing: what should the run and its folder be called?")
    name = read_value("name", given.get("name", "unnamed"), values.name, problems, default="unnamed")

    def section(kind: type[_Section], key: str, readers: Mapping[str, Reader], **fixed: Any) -> _Section:
        return read_values(kind, key, as_section(key, given.get(key), readers, problems), readers, problems, **fixed)

    search = section(StudyConfig, "search", _STUDY)
    evaluator, limits = read_evaluator(given.get("evaluator"), search.seed, problems)
    data: DataConfig | None = None
    space: Mapping[str, Any] = {}
    latency = section(LatencyConfig, "latency", _LATENCY)
    if isinstance(evaluator, TabularConfig):
        latency = _beside_a_table(given, latency, problems)
    else:
        before = len(problems)
        data = section(DataConfig, "data", _DATA, seed=search.seed)
        if len(problems) == before:
            problems += [f"data: {problem}" for problem in check_data(data)]
        space = _space(given.get("space"), data.image_size, problems)
    constraints = _constraints(given.get("constraints"), problems)
    config = SearchConfig(
        name=name,
        space=space,
        data=data,
        evaluator=evaluator,
        limits=limits,
        proxy=_proxy(given.get("proxy"), evaluator, "proxy_rank" in constraints, search, problems),
        objectives=_objectives(given.get("objectives"), evaluator, problems),
        constraints=constraints,
        latency=latency,
        search=search,
        export=section(ExportConfig, "export", _EXPORT),
        final=read_final(given.get("final"), data is not None, problems),
    )
    if config.latency.table in (None, BUILD_TABLE):
        try:
            resolve_device(config.latency.device)
        except ValueError as error:
            problems.append(f"latency.device: {error}")
    if len(config.space.get("resolutions", ())) > 1 and config.latency.input_size is not None:
        problems.append(
            "latency.input_size must be null where space.resolutions are searched: "
            "each network's costs are taken at its own resolution"
        )
    if problems:
        raise ConfigError(problems, source)
    return config


def _beside_a_table(given: Mapping[str, Any], latency: LatencyConfig, problems: list[str]) -> LatencyConfig:
    """Check the other sections where a table is replayed, and return the ``latency:`` section that suits it."""
    problems += [
        f"{key} is given, but the table of evaluator.path says it; leave the section out"
        for key in ("space", "data")
        if given.get(key) is not None
    ]
    section = given.get("latency")
    if isinstance(section, Mapping) and section.get("input_size") is not None:
        problems.append("latency.input_size must be null or left out: a table has costs at each network's own size")
    return dataclasses.replace(latency, input_size=None)


def _space(given: Any, image_size: int, problems: list[str]) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        known = ", ".join(list_backbones())
        problems.append(f"space = {given!r:.80}: expected a mapping with at least a backbone, one of {known}")
        return {}
    mistakes = list(_space_mistakes(given, image_size))
    problems += mistakes
    return {} if mistakes else given


#: Keys of a ``space:`` section whose values can be checked one by one.
_LISTS = ("ops", "widths", "stem", "resolutions", "expansions", "activations")


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
        several = isinstance(value, list) and value and key in _LISTS
        for part in [[item] for item in value] if several else [value]:
            # One op need not fit everywhere by itself: of each it is only asked whether it exists.
            problem = unknown_op(part) if several and key == "ops" else mistake({**base, key: part})
            if key != "backbone" and problem:
                found = True
                yield f"space.{key}: {problem}"
    # What is right value by value can still be wrong together: an op given twice, or none that fits into a block.
    if not found and (problem := mistake({**base, **given})):
        yield f"space: {problem}"


def _proxy(
    given: Any, evaluator: EvaluatorConfig, filters: bool, search: StudyConfig, problems: list[str]
) -> ProxyConfig | None:
    """Read the ``proxy:`` section, where something asks for proxies beside the evaluator."""
    first = search.first_from_proxy
    config = read_proxy(given, search.seed, problems)
    wanted = [
        *(["proxy"] if given is not None else []),
        *(["search.first_from_proxy"] if first else []),
        *(["constraints.proxy_rank"] if filters and not isinstance(evaluator, ProxyConfig) else []),
    ]
    if isinstance(evaluator, ProxyConfig):
        problems += [
            f"{key} stands beside an evaluator that trains; evaluator.kind is proxy, and has its keys itself"
            for key in wanted
        ]
        return None
    if isinstance(evaluator, TabularConfig):
        problems += [f"{key} needs images to score networks on, and a table is replayed without" for key in wanted]
        return None
    if wanted == ["proxy"]:
        problems.append(
            "proxy is given, but nothing asks for it: bound constraints.proxy_rank, or set search.first_from_proxy"
        )
    if first > config.sample:
        problems.append(
            f"search.first_from_proxy = {first}: expected at most the networks of proxy.sample, {config.sample}"
        )
    return config if wanted else None


def _objectives(given: Any, evaluator: EvaluatorConfig, problems: list[str]) -> dict[str, Direction]:
    measured, other = "accuracy", "proxy_score"
    if isinstance(evaluator, ProxyConfig):
        measured, other = other, measured
    defaults: dict[str, Direction] = {measured: "maximize", "latency_ms": "minimize"}
    if given is None:
        return defaults
    if isinstance(given, list):
        given = {name: default_direction(str(name)) for name in given}
    if not isinstance(given, Mapping) or not given:
        problems.append(f"objectives = {given!r:.80}: expected a mapping such as accuracy: maximize")
        return defaults
    check_keys("objectives.", given, tuple(DIRECTIONS), problems)
    for name, direction in given.items():
        read_value(f"objectives.{name}", direction, values.one_of("maximize", "minimize"), problems, default=None)
    if other in given:
        problems.append(f"objectives.{other}: evaluator.kind {evaluator_kind(evaluator)} measures {measured} instead")
    return dict(given)


def _constraints(given: Any, problems: list[str]) -> dict[str, float]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        problems.append(f"constraints = {given!r:.80}: expected a mapping such as macs: 60.0e6")
        return {}
    check_keys("constraints.", given, CONSTRAINTS, problems)
    return {
        name: read_value(f"constraints.{name}", bound, values.number(above=True), problems, default=math.inf)
        for name, bound in given.items()
    }
