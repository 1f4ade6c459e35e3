"""The drawings of the report."""

import pytest

from synth.report import charts
from tests.helpers.pages import Page


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (5, 5, [5]),
        (0.00012, 0.00031, [0.00015, 0.0002, 0.00025, 0.0003]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert charts.ticks(low, high) == pytest.approx(expected)


def test_loss_that_is_no_number_leaves_a_gap():
    nan = float("nan")
    drawn = charts.loss_curve([(1, 2.0), (2, 1.5), (3, nan), (4, 1.0), (5, nan)], 400)
    assert drawn.count("<polyline") == 1 and drawn.count("<circle") == 1
    assert "nan" not in drawn
    assert charts.loss_curve([(1, nan)], 400) == ""


def test_many_points_are_drawn_as_means():
    points = charts.thinned([(step, float(step)) for step in range(1, 10_001)])
    assert len(points) <= charts.MOST_POINTS
    assert points[0] == (13.0, 13.0)


@pytest.mark.parametrize("lengths", [{7: 3}, {0: 1}, {1: 1, 2: 1}, {0: 2, 99_999: 5}])
def test_histogram_counts_every_trace(lengths):
    drawn = charts.histogram({"kept": lengths, "rejected": {}}, 400)
    rects = Page(f"<div>{drawn}</div>")
    counted = [text.rpartition(": ")[2] for text in rects.text if text.endswith(" kept")]
    assert sum(int(text.split()[0]) for text in counted) == sum(lengths.values())


def test_nothing_to_draw_draws_nothing():
    assert charts.histogram({"kept": {}}, 400) == ""
    assert charts.loss_curve([], 400) == ""
    assert "nan" not in charts.bar(0, 0, 0)


def test_accuracies_at_both_ends_stay_on_the_drawing():
    drawn = charts.accuracies([("a", "before", 0, 0, 0.02), ("b", "after", 1, 0.98, 1)], 360)
    assert "100%" in drawn and "a: 0.0%, 95% interval 0.0% to 2.0%" in drawn
