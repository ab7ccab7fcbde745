"""The report's section on what was trained for real: accuracies of the search against final ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dicenas.final import FinalTrial, read_final_trials
from dicenas.report.markup import Child, Element, element
from dicenas.report.metrics import Metric, get_metric
from dicenas.report.scatter import Point, scatter
from dicenas.report.sections import section, trial_link
from dicenas.report.summary import RunSummary

__all__ = ["final_training"]

_SEARCHED = Metric("searched_accuracy", "Searched accuracy", "%", 100, 4)
_FINAL = Metric("final_accuracy", "Final accuracy", "%", 100, 4)


def final_training(summary: RunSummary) -> Element | None:
    """List what was trained for real, the best first, and plot final over searched accuracies."""
    trials = read_final_trials(summary.run)
    if not trials:
        return None
    return section(
        "From search to result",
        element("p", _explained(summary, trials)),
        element("div", _table(summary, trials), class_="card scroll"),
        _plot(summary, trials),
    )


def _explained(summary: RunSummary, trials: Sequence[FinalTrial]) -> str:
    identity = trials[0].folder.read_identity() or {}
    recipe, data = identity.get("recipe", {}), identity.get("data", {})
    given = summary.config.get("final")
    name = given.get("recipe") if isinstance(given, Mapping) else None
    name = name.get("name") if isinstance(name, Mapping) else name
    parts = [name] if isinstance(name, str) else []
    parts += [f"batch {recipe.get('batch')}", f"learning rate {recipe.get('learning_rate')}"]
    how = f"{recipe.get('epochs')} epochs ({', '.join(parts)})"
    images, measured = data.get("train images", 0), data.get("validation images", 0)
    seen = any("accuracy" in final.trial.metrics for final in trials)
    return (
        f"Networks of the search, trained from fresh weights for {how} on {images:,} images, and measured on "
        f"{measured:,}. The searched accuracy is "
        + ("that of the trial." if seen else "missing: the search trained none.")
    )


def _table(summary: RunSummary, trials: Sequence[FinalTrial]) -> Element:
    costs = [name for name in summary.objectives if name != "accuracy" and "accuracy" not in name]
    heads: list[Child] = [
        element("th", "Trial", class_="text"),
        element("th", _SEARCHED.title),
        element("th", _FINAL.title),
        element("th", "Difference (points)"),
        element("th", "Top-5 accuracy (%)"),
        *(element("th", summary.metric(name).title) for name in costs),
        element("th", "Epochs"),
        element("th", get_metric("train_seconds").title),
        element("th", "Exported", class_="text"),
    ]
    rows = []
    for final in trials:
        searched, result = final.trial.metrics.get("accuracy"), final.result
        reached = {} if result is None else result.metrics
        accuracy = reached.get("accuracy")
        gained = "–" if searched is None or accuracy is None else f"{100 * (accuracy - searched):+.1f}"
        export = final.folder.export_path
        where = export.relative_to(summary.run.path).as_posix()
        cells: list[Child] = [
            element("td", trial_link(summary, final.trial), class_="text"),
            element("td", _SEARCHED.format(searched)),
            element("td", _FINAL.format(accuracy)),
            element("td", gained),
            element("td", _FINAL.format(reached.get("top5_accuracy"))),
            *(element("td", summary.metric(name).format(final.trial.metrics.get(name))) for name in costs),
            element("td", "–" if result is None else f"{result.metrics['epochs']:.0f}"),
            element("td", get_metric("train_seconds").format(reached.get("train_seconds"))),
            element(
                "td",
                element("a", where, href=f"{where}/README.md") if export.is_dir() else "not at its end",
                class_="text",
            ),
        ]
        rows.append(element("tr", *cells, data_trial=final.trial.number))
    return element("table", element("thead", element("tr", *heads)), element("tbody", *rows))


def _plot(summary: RunSummary, trials: Sequence[FinalTrial]) -> Element | None:
    drawn = {trial.number for trial in summary.drawn}
    points = []
    for final in trials:
        searched = final.trial.metrics.get("accuracy")
        if searched is None or final.result is None:
            continue
        accuracy, number = final.result.metrics["accuracy"], final.trial.number
        text = f"Trial #{number}\nSearched: {_SEARCHED.format(searched)}%\nFinal: {_FINAL.format(accuracy)}%"
        points.append(Point(searched, accuracy, number, text, front=True, linked=number in drawn))
    if len(points) < 2:
        return None
    caption = element(
        "figcaption", "Where the points rise to the right, the search ranked them as the final training does."
    )
    return element("figure", scatter(points, [], _SEARCHED, _FINAL), caption, class_="card")
