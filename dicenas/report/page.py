"""The report: one HTML file that opens without a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dicenas
from dicenas.files import atomic_write_text
from dicenas.report import sections
from dicenas.report.final_training import final_training
from dicenas.report.latency_notes import latency_notes
from dicenas.report.markup import Child, Element, element, to_html
from dicenas.report.metrics import get_metric
from dicenas.report.style import SCRIPT, STYLE
from dicenas.report.summary import RunSummary
from dicenas.runs import RunFolder

__all__ = ["write_report"]

_VERSIONS = ("dicenas", "python", "torch", "torchvision", "nni", "optuna")


def write_report(run: RunFolder) -> Path:
    """Write ``report.html`` of a run and return its path.

    The report is made from what the folder holds, so that it can be written during a search, after it, or again.

    Args:
        run: The run folder, with ``config.yaml``; ``environment.json``, trials and export may be missing.

    Raises:
        FileNotFoundError: The folder holds no configuration.
        ValueError: A file in it is damaged.
    """
    atomic_write_text(run.report_path, to_html(_document(RunSummary.read(run))))
    return run.report_path


def _document(summary: RunSummary) -> Element:
    body: list[Child] = [_header(summary)]
    if summary.complete:
        body += [
            _tiles(summary),
            _searched(summary),
            sections.front_plots(summary),
            sections.front_table(summary),
            final_training(summary),
            latency_notes(summary),
            sections.bounds(summary),
            sections.drawings(summary),
            sections.op_usage(summary),
            sections.other_trials(summary),
        ]
    else:
        trials = f"All {len(summary.trials)} trials failed." if summary.trials else "No trial has finished."
        body += [
            element(
                "div", element("h3", "No complete trial yet"), element("span", trials, class_="soft"), class_="card"
            ),
            _searched(summary),
        ]
    body += [sections.failures(summary), sections.exported(summary) if summary.complete else None, _settings(summary)]
    footer = element("footer", f"Written by dicenas {dicenas.__version__}.")
    return element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("title", f"{summary.name} – architecture search"),
            element("style", STYLE),
        ),
        element("body", *body, footer, element("script", SCRIPT)),
        lang="en",
    )


def _header(summary: RunSummary) -> Element:
    environment = summary.environment
    facts = [
        f"Architecture search over {_backbone(summary)}",
        summary.device_name,
        _time(environment.get("finished") or environment.get("started")),
    ]
    line = " · ".join(str(fact) for fact in facts if fact)
    return element("header", element("h1", summary.name), element("p", line))


def _backbone(summary: RunSummary) -> str:
    section = summary.config.get("space")
    if isinstance(section, Mapping) and "backbone" in section:
        return str(section["backbone"])
    return ", ".join(sorted({trial.architecture.backbone for trial in summary.trials})) or "a space"


def _tiles(summary: RunSummary) -> Element:
    best = summary.front[0]
    leading = summary.metric(summary.leading)
    others = [name for name in summary.objectives if name != summary.leading]

    def numbers(trial: Any, names: list[str]) -> str:
        return ", ".join(summary.metric(name).format(trial.metrics[name], unit=True) for name in names)

    failed = f", {len(summary.failed)} failed" if summary.failed else ""
    tiles = [
        _tile("Trials", str(len(summary.trials)), f"{len(summary.complete)} complete{failed}"),
        _tile(
            f"Best {get_metric(summary.leading).phrase}",
            leading.format(best.metrics[summary.leading], unit=True),
            f"trial #{best.number}" + (f" at {numbers(best, others)}" if others else ""),
        ),
    ]
    if others:
        sign = -1 if summary.objectives[others[0]] == "maximize" else 1
        extreme = min(summary.front, key=lambda trial: sign * trial.metrics[others[0]])
        metric = summary.metric(others[0])
        tiles.append(
            _tile(
                f"{'Lowest' if sign == 1 else 'Highest'} {get_metric(others[0]).phrase} on the front",
                metric.format(extreme.metrics[others[0]], unit=True),
                f"trial #{extreme.number} at {numbers(extreme, [summary.leading, *others[1:]])}",
            )
        )
        tiles.append(
            _tile("On the Pareto front", str(len(summary.front)), f"of {len(summary.complete)} complete trials")
        )
    return element("div", *tiles, class_="tiles")


def _tile(title: str, value: str, note: str) -> Element:
    return element(
        "div", element("h3", title), element("span", value, class_="value"), element("span", note), class_="card"
    )


def _searched(summary: RunSummary) -> Element:
    """What was searched, and on what it was measured, side by side."""
    config, environment = summary.config, summary.environment
    space = summary.space()
    searched: dict[str, Any] = {}
    if space is not None:
        tried = f", {len(summary.trials):,} tried" if summary.trials else ""
        searched["Space"] = f"{space.backbone}, {_scientific(space.size)} architectures{tried}"
        searched["Ops"] = ", ".join(space.ops)
        searched["Widths"] = ", ".join(f"{width:g}" for width in space.widths)
        searched["Depths"] = "; ".join("/".join(map(str, depths)) for depths in space.depths)
    searched["Objectives"] = ", ".join(f"{name} ({way})" for name, way in summary.objectives.items())
    searched["Constraints"] = _constraints(summary)
    searched["Data"] = _settings_line(config.get("data"))
    searched["Evaluation"] = _settings_line(config.get("evaluator"))
    searched["Search"] = _settings_line(config.get("search"))

    measured: dict[str, Any] = {"Device": summary.device_name, "Latency": _settings_line(summary.latency)}
    measured["Started"], measured["Finished"] = _time(environment.get("started")), _time(environment.get("finished"))
    if isinstance(seconds := environment.get("seconds"), int | float):
        measured["Duration"] = f"{seconds / 60:.1f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
    measured["Versions"] = _settings_line({name: environment.get(name) for name in _VERSIONS})
    measured["Platform"] = environment.get("platform")
    lists = [_definitions(searched), _definitions(measured)]
    return element("div", element("div", *lists, class_="columns"), class_="card")


def _definitions(values: Mapping[str, Any]) -> Element:
    items: list[Element] = []
    for term, value in values.items():
        if value:
            items += [element("dt", term), element("dd", str(value))]
    return element("dl", *items)


def _constraints(summary: RunSummary) -> str:
    constraints = summary.config.get("constraints")
    if not isinstance(constraints, Mapping):
        return ""
    texts = [
        f"{summary.metric(n).label} ≤ {summary.metric(n).format(float(v), unit=True)}" for n, v in constraints.items()
    ]
    return ", ".join(texts)


def _settings_line(section: Any) -> str:
    """Write a section of settings on one line, without what is not set."""
    if not isinstance(section, Mapping):
        return ""
    return ", ".join(f"{key} {value}" for key, value in section.items() if value is not None)


def _time(stamp: Any) -> str:
    """Write an ISO 8601 time to the minute."""
    return str(stamp or "")[:16].replace("T", " ")


def _scientific(number: int) -> str:
    if number < 1_000_000:
        return f"{number:,}"
    mantissa, exponent = f"{number:.1e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def _settings(summary: RunSummary) -> Element:
    text = summary.run.config_path.read_text(encoding="utf-8")
    return element(
        "section",
        element("h2", "Configuration"),
        element("details", element("summary", "config.yaml"), element("pre", element("code", text)), class_="card"),
    )
