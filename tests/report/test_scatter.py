from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicenas.report.metrics import Metric, format_number, get_metric
from dicenas.report.scatter import Point, scatter

numbers = st.floats(-1e9, 1e9, allow_subnormal=False).map(lambda value: float(f"{value:.6g}"))


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20))
def test_all_points_lie_in_the_plot_in_their_order(values: list[tuple[float, float]]) -> None:
    points = [Point(x, y, number, "") for number, (x, y) in enumerate(values)]
    svg = scatter(points, [], Metric("x", "X"), Metric("y", "Y"))
    _, _, width, height = map(float, svg.attrib["viewBox"].split())
    places = {
        int(circle.attrib["data-trial"]): (float(circle.attrib["cx"]), float(circle.attrib["cy"]))
        for circle in svg.iter("circle")
    }
    for i, (x, y) in enumerate(values):
        assert 0 < places[i][0] < width
        assert 0 < places[i][1] < height
        for j, (other_x, other_y) in enumerate(values):
            assert x > other_x or places[i][0] <= places[j][0]
            assert y > other_y or places[i][1] >= places[j][1]


@pytest.mark.parametrize(("largest", "log"), [(20.0, False), (2000.0, True)])
def test_a_log_axis_where_values_span_magnitudes(largest: float, log: bool) -> None:
    points = [Point(x, 1.0, i, "") for i, x in enumerate((2.0, 5.0, largest))]
    texts = [text.text or "" for text in scatter(points, [], get_metric("latency_ms"), Metric("y", "Y")).iter("text")]
    assert ("Latency (ms), log scale" in texts) is log
    assert ("Latency (ms)" in texts) is not log


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12.345, "12.3"),
        (0.0123, "0.0123"),
        (99.96, "100.0"),
        (1234.5, "1,234"),
        (-5, "-5.00"),
        (math.inf, "inf"),
    ],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert format_number(value) == text


def test_metrics_carry_their_units() -> None:
    assert get_metric("macs").format(51.23e6, unit=True) == "51.2 M"
    assert get_metric("accuracy").format(0.9514, unit=True) == "95.14%"
    assert get_metric("latency_ms").format(None) == "–"
    assert get_metric("mine").title == "mine"
