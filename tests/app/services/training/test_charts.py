"""Pace and wording of a run's numbers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from app.models import Run, RunMetric
from app.services.training import charts


def rows(values: dict[int, dict[str, object]]) -> list[RunMetric]:
    return [RunMetric(step=step, values=numbers) for step, numbers in values.items()]


def test_the_time_left_follows_the_latest_pace() -> None:
    run = Run(state="running", progress_step=4, progress_total=10)
    metrics = rows({step: {"time": 100.0 + 3.0 * step} for step in range(1, 5)})
    assert charts.seconds_left(run, metrics) == pytest.approx(18.0)
    assert charts.seconds_left(run, metrics[:1]) is None
    run.state = "queued"
    assert charts.seconds_left(run, metrics) is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (119, "119 s"), (600, "10 min"), (9000, "2.5 h"), (3 * 86400, "3.0 days")]
)
def test_durations_are_spoken_in_a_fitting_unit(seconds: float, words: str) -> None:
    assert charts.spoken(seconds) == words


def test_a_run_that_has_ended_stops_counting() -> None:
    begin = datetime(2026, 1, 5, tzinfo=UTC)
    run = Run(started_at=begin, finished_at=begin + timedelta(seconds=90))
    assert charts.duration(run, begin + timedelta(days=1)) == "90 s"


def test_an_interval_stands_behind_its_number() -> None:
    report = {
        "accuracy": 0.71,
        "accuracy_interval": [0.66, 0.75],
        "kl": 3.0,
        "headline": "x",
        "policies": {},
        "odd": True,
    }
    assert charts.figures(report) == {"accuracy": "0.71 (0.66 to 0.75)", "KL": "3"}


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.0, "3"), (1234567.0, "1,234,567"), (0.00005, "5e-05"), (0.71234, "0.7123"), (2310.5, "2,310")],
)
def test_numbers_keep_the_digits_that_matter(value: float, text: str) -> None:
    assert charts.number(value) == text
