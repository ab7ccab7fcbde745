"""The sections of a report."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

from dicenas.architecture import Architecture
from dicenas.ops import get_op, list_ops
from dicenas.report.drawing import draw_architecture, draw_ops, frame
from dicenas.report.markup import Child, Element, element
from dicenas.report.metrics import Metric, get_metric
from dicenas.report.palette import op_colors, split_candidate, split_name
from dicenas.report.scatter import Point, scatter
from dicenas.report.summary import RunSummary
from dicenas.runs import TrialRecord

__all__ = [
    "bounds",
    "drawings",
    "exported",
    "failures",
    "front_plots",
    "front_table",
    "op_usage",
    "other_trials",
    "section",
    "trial_link",
]

_COLUMNS = ("accuracy", "latency_ms", "latency_measured_ms", "latency_eager_ms", "macs", "params", "peak_memory_mb")


def front_plots(summary: RunSummary) -> Element:
    """Plot the first objective over each other one; over the trials where it is the only one."""
    others = [name for name in summary.objectives if name != summary.leading]
    plots = [_front_plot(summary, name) for name in others] or [_history_plot(summary)]
    caption = element(
        "p",
        element("span", class_="key front"),
        "on the Pareto front, linked to its drawing; the whisker spans the middle half of the latency measurements"
        if others
        else "best so far",
        element("span", class_="key other"),
        "other trials. Rest the pointer on a point for its numbers.",
    )
    return section("The Pareto front" if others else "The trials", caption, *plots)


def _front_plot(summary: RunSummary, name: str) -> Element:
    x, y = summary.metric(name), summary.metric(summary.leading)
    front = {trial.number for trial in summary.front}
    drawn = {trial.number for trial in summary.drawn}
    points = [
        Point(
            trial.metrics[name],
            trial.metrics[summary.leading],
            trial.number,
            _tooltip(summary, trial),
            trial.number in front,
            trial.number in drawn,
            _spread(trial) if name == "latency_ms" else None,
        )
        for trial in summary.complete
    ]
    # With three objectives a trial of the front may be dominated in this plane; the line is the plane's own front.
    plane = summary.run.front({key: summary.objectives[key] for key in (name, summary.leading)})
    line: list[tuple[float, float]] = []
    for trial in plane:
        corner = (trial.metrics[name], trial.metrics[summary.leading])
        if line:
            # Between two trials the worse of the two values is what can be had.
            line.append((corner[0], line[-1][1]))
        line.append(corner)
    return element("figure", scatter(points, line, x, y), class_="card")


def _history_plot(summary: RunSummary) -> Element:
    name = summary.leading
    sign = -1 if summary.objectives[name] == "maximize" else 1
    drawn = {trial.number for trial in summary.drawn}
    points: list[Point] = []
    line: list[tuple[float, float]] = []
    for trial in summary.complete:
        value = trial.metrics[name]
        best = not line or sign * value < sign * line[-1][1]
        if line:
            line.append((trial.number, line[-1][1]))
        if best:
            line.append((trial.number, value))
        points.append(Point(trial.number, value, trial.number, _tooltip(summary, trial), best, trial.number in drawn))
    return element(
        "figure", scatter(points, line, Metric("trial", "Trial", digits=1), summary.metric(name)), class_="card"
    )


def front_table(summary: RunSummary) -> Element:
    """List the front, best first objective first."""
    title = "The networks on the front" if len(summary.objectives) > 1 else "The best network"
    return section(title, element("div", _trial_table(summary, summary.front), class_="card"))


def other_trials(summary: RunSummary) -> Element | None:
    """List the complete trials off the front, folded away."""
    front = {trial.number for trial in summary.front}
    others = [trial for trial in summary.complete if trial.number not in front]
    if not others:
        return None
    heading = element("summary", f"{_count(len(others), 'trial')} off the front")
    return section("All other trials", element("details", heading, _trial_table(summary, others), class_="card"))


def _trial_table(summary: RunSummary, trials: Sequence[TrialRecord]) -> Element:
    names = [name for name in _COLUMNS if any(name in trial.metrics for trial in trials)]
    names = list(dict.fromkeys([*summary.objectives, *names]))
    arrows = {"maximize": " ↑", "minimize": " ↓"}
    heads: list[Child] = [element("th", "Trial", class_="text")]
    heads += [
        element("th", summary.metric(name).title + arrows.get(summary.objectives.get(name, ""), "")) for name in names
    ]
    heads += [element("th", "Width"), element("th", "Ops, stage by stage", class_="text")]
    rows = []
    for trial in trials:
        cells: list[Child] = [element("td", trial_link(summary, trial), class_="text")]
        for name in names:
            metric = summary.metric(name)
            spread = _spread(trial) if name == "latency_ms" else None
            cells.append(
                element(
                    "td",
                    metric.format(trial.metrics.get(name)),
                    element("span", "–".join(map(metric.format, spread)), class_="spread") if spread else None,
                )
            )
        cells.append(element("td", f"{trial.architecture.width:g}"))
        cells.append(element("td", draw_ops(trial.architecture, _colors(summary)), class_="text"))
        rows.append(element("tr", *cells, data_trial=trial.number))
    table = element("table", element("thead", element("tr", *heads)), element("tbody", *rows))
    return element("div", table, class_="scroll")


def drawings(summary: RunSummary) -> Element:
    """Draw each architecture of the front, and those that win under a bound."""
    size = summary.input_size
    at = f" at the size where cost and latency were taken, {size}×{size}" if size else ""
    return section(
        "The architectures",
        element(
            "p",
            f"Each network{at}. A block names its op and kernel size, how much it reduces the image (↓) "
            "and its output channels; the bar below it is its share of the FLOPs (MACs).",
        ),
        _legend(summary),
        *(_drawing(summary, trial) for trial in summary.drawn),
    )


def _drawing(summary: RunSummary, trial: TrialRecord) -> Element:
    architecture = summary.deployed(trial.architecture)
    shown = dict.fromkeys([*summary.objectives, *(name for name in ("macs", "params") if name in trial.metrics)])
    numbers = [
        f"{summary.metric(name).label} {summary.metric(name).format(trial.metrics[name], unit=True)}" for name in shown
    ]
    numbers.append(f"{architecture.backbone}, width {architecture.width:g}")
    return element(
        "article",
        element(
            "div",
            element("h3", f"Trial #{trial.number}"),
            *(element("span", number, class_="soft") for number in numbers),
            class_="head",
        ),
        element("div", draw_architecture(architecture, _colors(summary)), class_="scroll"),
        id=f"trial-{trial.number}",
        class_="card trial",
    )


def _legend(summary: RunSummary) -> Element:
    items = []
    for op, color in _colors(summary).items():
        swatch = element("svg", *frame(0.5, 0.5, 19, 19, op, color), width=20, height=20, aria_hidden="true")
        meaning = f": {get_op(op).summary.rstrip('.')}" if op in list_ops() else ""
        items.append(element("li", swatch, element("strong", op), element("span", meaning, class_="soft")))
    return element("ul", *items, class_="legend")


def bounds(summary: RunSummary) -> Element | None:
    """Show the best trial without a bound on its cost and under tighter and tighter ones."""
    name = summary.bound_metric()
    winners = summary.winners(name) if name else []
    if name is None or len(winners) < 2:
        return None
    metric, leading = summary.metric(name), summary.metric(summary.leading)
    free = winners[0].trial
    rows = []
    for winner in winners:
        trial = winner.trial
        bound = "none" if winner.bound is None else f"≤ {metric.format(winner.bound, unit=True)}"
        changes = "; ".join(_changes(free.architecture, trial.architecture)) or "the same network"
        rows.append(
            element(
                "tr",
                element("td", element("strong", bound), class_="text fixed"),
                element("td", trial_link(summary, trial), class_="text"),
                element("td", leading.format(trial.metrics[summary.leading])),
                element("td", metric.format(trial.metrics[name])),
                element("td", str(winner.candidates)),
                element("td", draw_ops(trial.architecture, _colors(summary)), class_="text"),
                element("td", "" if winner.bound is None else changes, class_="text wide soft"),
                data_trial=trial.number,
            )
        )
    heads = [
        element("th", "Bound", class_="text"),
        element("th", "Winner", class_="text"),
        element("th", leading.title),
        element("th", metric.title),
        element("th", "Trials within"),
        element("th", "Ops, stage by stage", class_="text"),
        element("th", "Against the winner without a bound", class_="text"),
    ]
    table = element("table", element("thead", element("tr", *heads)), element("tbody", *rows))
    distinct = len({winner.trial.number for winner in winners})
    verdict = (
        f"The bound steers the choice: {distinct} different networks win."
        if distinct > 1
        else "The same network wins under every bound: it is among the cheapest and the best at once."
    )
    return section(
        f"What a bound on {get_metric(name).phrase} buys",
        element("p", f"The best network among the trials of this run that keep a bound. {verdict}"),
        element("div", table, class_="card scroll"),
    )


def _changes(before: Architecture, after: Architecture) -> list[str]:
    """Say in words how one architecture differs from another."""
    changes = []
    if before.width != after.width:
        changes.append(f"width {before.width:g} → {after.width:g}")
    if before.image_size != after.image_size:
        changes.append(f"resolution {before.image_size[0]} → {after.image_size[0]}")
    if before.stem != after.stem:
        changes.append(f"stem {before.stem} → {after.stem}")
    depths = ["-".join(str(len(stage)) for stage in a.stages) for a in (before, after)]
    if depths[0] != depths[1]:
        changes.append(f"blocks {depths[0]} → {depths[1]}")
    counts = [Counter(split_candidate(op)[0] for op in itertools.chain(*a.stages)) for a in (before, after)]
    ops = sorted({*counts[0], *counts[1]})
    changes += [f"{op} {counts[0][op]} → {counts[1][op]}" for op in ops if counts[0][op] != counts[1][op]]
    pairs = [pair for a, b in zip(before.stages, after.stages, strict=False) for pair in zip(a, b, strict=False)]
    different = sum(a != b for a, b in pairs)
    if different:
        changes.append(f"another op, kernel size or expansion in {different} of {len(pairs)} blocks that both have")
    return changes


def op_usage(summary: RunSummary) -> Element:
    """Compare how often each candidate op stands in the blocks of the front and of all complete trials."""
    front, everywhere = _shares(summary.front), _shares(summary.complete)
    largest = max([*front.values(), *everywhere.values()])
    colors = _colors(summary)
    rows = []
    for op in sorted(everywhere, key=lambda op: (list(colors).index(split_candidate(op)[0]), op)):
        color = colors[split_candidate(op)[0]]
        bars = [
            element(
                "div",
                element("i", style=f"width: {70 * share / largest:.1f}%; background: {color}", class_=kind),
                f"{share:.0%}",
                element("span", f" {text}", class_="soft"),
                class_="bar",
            )
            for share, kind, text in ((front.get(op, 0.0), "of-front", "front"), (everywhere[op], "all", "all trials"))
        ]
        rows.append(element("dt", element("code", op)))
        rows.append(element("dd", *bars))
    return section(
        "Which ops the front uses",
        element("p", "Share of the blocks that hold each candidate op, on the front and in all complete trials."),
        element("div", element("dl", *rows), class_="card"),
    )


def _shares(trials: Iterable[TrialRecord]) -> dict[str, float]:
    counts = Counter(
        split_name(name).candidate for trial in trials for name in itertools.chain(*trial.architecture.stages)
    )
    return {op: count / counts.total() for op, count in counts.items()}


def failures(summary: RunSummary) -> Element | None:
    """List the failed trials with the reasons."""
    if not summary.failed:
        return None
    rows = [
        element(
            "tr",
            element("td", f"#{trial.number}", class_="text"),
            element("td", element("code", trial.error or "an objective is missing or not finite"), class_="text wide"),
            element("td", f"{trial.architecture.width:g}"),
            element("td", draw_ops(trial.architecture, _colors(summary)), class_="text"),
        )
        for trial in summary.failed
    ]
    heads = element(
        "tr",
        element("th", "Trial", class_="text"),
        element("th", "Reason", class_="text"),
        element("th", "Width"),
        element("th", "Ops, stage by stage", class_="text"),
    )
    table = element("table", element("thead", heads), element("tbody", *rows))
    return section("Failed trials", element("div", table, class_="card scroll"))


def exported(summary: RunSummary) -> Element:
    """Say where the exported network is, and how to export another."""
    folder = summary.run.export_path
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    another = element(
        "p",
        "Any trial: ",
        element("code", f"dicenas export {summary.run.path} --trial NUMBER --formats py,safetensors --out DIR"),
    )
    if not files:
        return section("Taking a network away", element("p", "Nothing is exported yet."), another)
    rows = []
    for path in files:
        rows.append(element("dt", element("a", path.name, href=f"{folder.name}/{path.name}")))
        rows.append(element("dd", f"{path.stat().st_size / 1024:,.1f} KiB", class_="soft"))
    return section(
        "Taking a network away",
        element("p", "The exported network is in ", element("code", str(folder)), "."),
        element("div", element("dl", *rows), class_="card"),
        another,
    )


def section(title: str, *children: Child) -> Element:
    """Put a heading over a part of the page."""
    return element("section", element("h2", title), *children)


def _colors(summary: RunSummary) -> dict[str, str]:
    return op_colors(op for trial in summary.trials for stage in trial.architecture.stages for op in stage)


def trial_link(summary: RunSummary, trial: TrialRecord) -> Child:
    """A trial's number, linked to its drawing where it has one."""
    label = f"#{trial.number}"
    linked = any(trial.number == other.number for other in summary.drawn)
    return element("a", label, href=f"#trial-{trial.number}") if linked else label


def _spread(trial: TrialRecord) -> tuple[float, float] | None:
    low, high = trial.metrics.get("latency_p25_ms"), trial.metrics.get("latency_p75_ms")
    return None if low is None or high is None else (low, high)


def _tooltip(summary: RunSummary, trial: TrialRecord) -> str:
    names = dict.fromkeys([*summary.objectives, *(name for name in _COLUMNS if name in trial.metrics)])
    lines = [f"Trial #{trial.number}"]
    lines += [f"{summary.metric(n).label}: {summary.metric(n).format(trial.metrics[n], unit=True)}" for n in names]
    architecture = trial.architecture
    lines.append(f"Width {architecture.width:g}, {_count(sum(map(len, architecture.stages)), 'block')}")
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
