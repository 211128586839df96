"""Metrics as curves: one run's kinds on one pair of axes, several runs over each other, over steps or over time."""

from __future__ import annotations

import pytest

from app.models import RunMetric
from app.services.training import curves
from app.services.training.curves import Trace


def rows(values: dict[int, dict[str, object]]) -> list[RunMetric]:
    return [RunMetric(step=step, values=numbers) for step, numbers in values.items()]


def test_a_curve_fills_its_box_from_the_first_step_to_the_last() -> None:
    [chart] = curves.of_run(rows({10: {"loss": 4.0}, 20: {"loss": 3.0}, 30: {"loss": 2.0}}))
    assert (chart.title, chart.first, chart.last, chart.low, chart.high) == ("Loss", "step 10", "step 30", "2", "4")
    assert chart.curves[0].points == "0.0,4.0 150.0,48.0 300.0,92.0"
    assert chart.curves[0].last == "2"


@pytest.mark.parametrize("values", [{5: {"loss": 1.0}}, {5: {"loss": 1.0}, 6: {"loss": 1.0}}])
def test_one_point_and_a_flat_curve_lie_in_the_middle(values: dict[int, dict[str, object]]) -> None:
    [chart] = curves.of_run(rows(values))
    assert chart.curves[0].end[1] == 48.0


def test_missing_and_lost_numbers_leave_a_gap_and_no_chart_of_their_own() -> None:
    [chart] = curves.of_run(rows({1: {"loss": 2.0, "accuracy": None}, 2: {"loss": None}, 3: {"loss": 1.0}}))
    assert chart.curves[0].points == "0.0,4.0 300.0,92.0"


def test_a_long_run_is_drawn_with_few_points_and_its_newest() -> None:
    [chart] = curves.of_run(rows({step: {"loss": 1.0 / step} for step in range(1, 5001)}))
    points = chart.curves[0].points.split()
    assert len(points) <= curves.MOST_POINTS + 1
    assert points[-1].startswith("300.0,")


def test_runs_over_each_other_share_axes_and_keep_their_styles() -> None:
    first = Trace("first", rows({1: {"loss": 1.0, "held_out_loss": 3.0}, 4: {"loss": 0.5}}))
    second = Trace("second", rows({1: {"loss": 2.0}, 2: {"loss": 1.5, "accuracy": 0.7}}))
    loss, held_out, accuracy = curves.learning([first, second])
    assert [(curve.name, curve.style, curve.points) for curve in loss.curves] == [
        ("first", 1, "0.0,62.7 300.0,92.0"),
        ("second", 2, "0.0,4.0 100.0,33.3"),
    ]
    assert (held_out.title, [curve.style for curve in held_out.curves]) == ("Loss: held out loss", [1])
    assert (accuracy.title, [curve.style for curve in accuracy.curves]) == ("Accuracy", [2])


def test_over_time_each_run_starts_at_its_own_beginning() -> None:
    slow = Trace("slow", rows({1: {"loss": 2.0, "time": 5000.0}, 2: {"loss": 1.0, "time": 5600.0}}))
    fast = Trace("fast", rows({1: {"loss": 2.0, "time": 90.0}, 2: {"loss": 1.0, "time": 390.0}, 3: {"loss": 0.5}}))
    [chart] = curves.learning([slow, fast], "time")
    assert (chart.first, chart.last) == ("0 s", "10 min")
    assert [curve.end[0] for curve in chart.curves] == [300.0, 150.0]


def test_a_metric_that_this_release_does_not_know_has_a_chart_of_its_own() -> None:
    values = {
        "loss": 1.0,
        "grad_norm": 2.0,
        "kl_surprise": 3.0,
        "time": 1.0,
        "total_steps": 9,
        "policy": "dpo-1",
        "on": True,
    }
    assert [chart.title for chart in curves.mechanics([Trace("", rows({1: values}))])] == [
        "Gradient norm",
        "KL surprise",
    ]
