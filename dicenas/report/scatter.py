"""A scatter plot as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dicenas.report.markup import Element, element
from dicenas.report.metrics import Metric, format_number

__all__ = ["Point", "scatter"]

_WIDTH, _HEIGHT = 760, 430
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 18, 52
_LOG_FROM = 12  # ratio of the largest to the smallest value from which a log axis is easier to read


@dataclass(frozen=True)
class Point:
    """A trial in a scatter plot.

    Attributes:
        x: Value on the horizontal axis, as stored.
        y: Value on the vertical axis, as stored.
        trial: Number of the trial.
        tooltip: Text shown when the pointer rests on it.
        front: Whether it is highlighted.
        linked: Whether the page holds a drawing of the trial to link to.
        spread: Interval of ``x``, drawn as a whisker.
    """

    x: float
    y: float
    trial: int
    tooltip: str
    front: bool = False
    linked: bool = False
    spread: tuple[float, float] | None = None


class _Axis:
    """Maps values to pixels, on a log scale where the values span more than an order of magnitude."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = min(values), max(values)
        self.log = low > 0 and high / low >= _LOG_FROM
        low, high = self._transform(low), self._transform(high)
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
        self._low, self._high, self._start, self._end = low - margin, high + margin, start, end

    def _transform(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def __call__(self, value: float) -> float:
        share = (self._transform(value) - self._low) / (self._high - self._low)
        # A whisker may end outside of the plot.
        return self._start + min(max(share, 0.0), 1.0) * (self._end - self._start)

    def ticks(self) -> list[float]:
        """Round values on the axis."""
        if self.log:
            exponents = range(math.floor(self._low), math.ceil(self._high) + 1)
            values = [digit * 10.0**exponent for exponent in exponents for digit in (1, 2, 5)]
            return [value for value in values if self._low <= math.log10(value) <= self._high]
        rough = (self._high - self._low) / 6
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        first = math.ceil(self._low / step)
        return [round(i * step, 12) for i in range(first, math.floor(self._high / step) + 1)]


def scatter(points: Sequence[Point], line: Sequence[tuple[float, float]], x: Metric, y: Metric) -> Element:
    """Draw points and a line through some of them as an SVG element.

    Args:
        points: What to draw, at least one.
        line: Corners of the line, as stored.
        x: How the horizontal axis is written.
        y: How the vertical axis is written.
    """
    across = _Axis([point.x * x.scale for point in points], _LEFT, _WIDTH - _RIGHT)
    up = _Axis([point.y * y.scale for point in points], _HEIGHT - _BOTTOM, _TOP)

    def at(point_x: float, point_y: float) -> tuple[float, float]:
        return across(point_x * x.scale), up(point_y * y.scale)

    corners = " ".join("{:.1f},{:.1f}".format(*at(*corner)) for corner in line)
    marks = element("g")
    labels: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: point.front):
        cx, cy = at(point.x, point.y)
        if point.front and point.spread:
            ends = [at(end, point.y)[0] for end in point.spread]
            marks.append(element("path", d=f"M{ends[0]:.1f} {cy:.1f}H{ends[1]:.1f}", class_="whisker"))
        mark = element(
            "circle",
            element("title", point.tooltip),
            cx=cx,
            cy=cy,
            r=6 if point.front else 4.5,
            class_="front" if point.front else "other",
            data_trial=point.trial,
        )
        group = element("a", mark, href=f"#trial-{point.trial}") if point.linked else element("g", mark)
        # A label that would cover another one is left out; the tooltip has the number too.
        if point.front and all(abs(cx - left) > 26 or abs(cy - top) > 13 for left, top in labels):
            labels.append((cx, cy))
            group.append(element("text", f"#{point.trial}", x=cx - 9, y=cy - 8, text_anchor="end", class_="label"))
        marks.append(group)
    return element(
        "svg",
        _axes(across, up, x, y),
        element("polyline", points=corners, class_="front-line") if corners else None,
        marks,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=f"{y.label} over {x.label} of {len(points)} trials",
        class_="scatter",
    )


def _axes(across: _Axis, up: _Axis, x: Metric, y: Metric) -> Element:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    axes = element("g", class_="axes")
    for value in across.ticks():
        position = across(value)
        axes.append(element("path", d=f"M{position:.1f} {_TOP}V{bottom}"))
        axes.append(element("text", _tick(value), x=position, y=bottom + 18, text_anchor="middle"))
    for value in up.ticks():
        position = up(value)
        axes.append(element("path", d=f"M{_LEFT} {position:.1f}H{right}"))
        axes.append(element("text", _tick(value), x=_LEFT - 8, y=position + 4, text_anchor="end"))
    middle = (_LEFT + right) / 2
    axes.append(element("text", _title(x, across), x=middle, y=_HEIGHT - 10, text_anchor="middle", class_="axis-title"))
    axes.append(
        element(
            "text",
            _title(y, up),
            transform=f"translate(14 {(_TOP + bottom) / 2:g}) rotate(-90)",
            text_anchor="middle",
            class_="axis-title",
        )
    )
    return axes


def _title(metric: Metric, axis: _Axis) -> str:
    return metric.title + (", log scale" if axis.log else "")


def _tick(value: float) -> str:
    return f"{value:,.10g}" if abs(value) < 1e6 else format_number(value)
