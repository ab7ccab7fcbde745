"""How metrics are named and written for readers: labels, units, digits."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Metric", "format_number", "get_metric"]


@dataclass(frozen=True)
class Metric:
    """A metric as readers see it.

    Attributes:
        name: Key in the metrics of a trial.
        label: Name for readers.
        unit: Unit for readers, empty where there is none.
        scale: Factor from the stored number to the unit for readers.
        digits: Significant digits.
    """

    name: str
    label: str
    unit: str = ""
    scale: float = 1.0
    digits: int = 3

    @property
    def title(self) -> str:
        """Label with the unit, for axes and columns."""
        if not self.unit:
            return self.label
        return f"{self.label}, {self.unit}" if self.label.endswith(")") else f"{self.label} ({self.unit})"

    @property
    def phrase(self) -> str:
        """Label as it stands within a sentence."""
        return self.label if self.label[1:2].isupper() else self.label[:1].lower() + self.label[1:]

    def format(self, value: float | None, *, unit: bool = False) -> str:
        """Write a stored value in the unit for readers; a dash where there is none.

        Args:
            value: The number as stored, or None.
            unit: Whether the unit follows the number.
        """
        if value is None:
            return "–"
        text = format_number(value * self.scale, self.digits)
        separator = "" if self.unit == "%" else " "
        return f"{text}{separator}{self.unit}" if unit and self.unit else text


_METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "Accuracy", "%", 100, 4),
        Metric("latency_ms", "Latency", "ms"),
        Metric("latency_measured_ms", "Latency, measured whole", "ms"),
        Metric("latency_eager_ms", "Latency, eager", "ms"),
        Metric("macs", "FLOPs (MACs)", "M", 1e-6),
        Metric("params", "Parameters", "M", 1e-6),
        Metric("peak_memory_mb", "Peak memory", "MB"),
        Metric("train_seconds", "Training", "s"),
        Metric("loss", "Loss"),
    )
}


def get_metric(name: str) -> Metric:
    """Return how a metric is written; one that is not known keeps its name and number."""
    return _METRICS.get(name, Metric(name, name, digits=4))


def format_number(value: float, digits: int = 3) -> str:
    """Write a number with so many significant digits, whole ones all of them, and thousands separated."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}" if decimals < 8 else f"{value:.{digits}g}"
