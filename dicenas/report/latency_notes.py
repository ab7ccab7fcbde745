"""What a report says of latencies that should not be taken at their word."""

from __future__ import annotations

from collections.abc import Iterator

from dicenas.report.markup import Element, element
from dicenas.report.summary import RunSummary
from dicenas.runs import TrialRecord

__all__ = ["latency_notes", "latency_warnings"]

#: From this relative difference on, a prediction is said to be off.
_NOTABLE = 0.1


def latency_notes(summary: RunSummary) -> Element | None:
    """Return the warnings of :func:`latency_warnings` as a section; None where there are none."""
    warnings = list(latency_warnings(summary))
    if not warnings:
        return None
    items = [element("li", warning) for warning in warnings]
    return element("section", element("h2", "Mind the latencies"), element("ul", *items, class_="card notes"))


def latency_warnings(summary: RunSummary) -> Iterator[str]:
    """Yield predictions that are off by more than 10 %, and whether another runtime ranks the front otherwise."""
    measured = [trial for trial in summary.front if "latency_measured_ms" in trial.metrics]
    for trial in measured:
        predicted, found = trial.metrics["latency_ms"], trial.metrics["latency_measured_ms"]
        if abs(predicted / found - 1) > _NOTABLE:
            yield (
                f"Trial #{trial.number} was predicted to take {predicted:.3g} ms and took {found:.3g} ms when it was "
                f"measured whole ({predicted / found - 1:+.0%})."
            )
    own = "latency_measured_ms" if measured else "latency_ms"
    both = [trial for trial in summary.front if {own, "latency_eager_ms"} <= set(trial.metrics)]
    if _ranking(both, own) != _ranking(both, "latency_eager_ms"):
        runtime = summary.latency.get("runtime", "this runtime")
        yield (
            f"Without native kernels the networks of the front rank otherwise: by {runtime} "
            f"{_order(_ranking(both, own))}, eager {_order(_ranking(both, 'latency_eager_ms'))}, the fastest first."
        )


def _ranking(trials: list[TrialRecord], metric: str) -> list[int]:
    return [trial.number for trial in sorted(trials, key=lambda trial: trial.metrics[metric])]


def _order(numbers: list[int]) -> str:
    return ", ".join(f"#{number}" for number in numbers)
