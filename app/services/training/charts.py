"""A run's metrics as curves, and how long it will still take: pure arithmetic on stored numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from app.models import Run, RunMetric

WIDTH, HEIGHT = 300, 96
MOST_POINTS = 240
# Title, unit, and the metrics that share one pair of axes. What a run did not write is left out.
CHARTS = (
    ("Loss", "nats", ("loss", "held_out_loss")),
    ("Accuracy", "share of pairs", ("accuracy", "held_out_accuracy")),
    ("Margin", "reward difference", ("margin", "held_out_margin")),
    ("Reward", "normalised", ("reward", "objective")),
    ("KL to the reference", "nats a sequence", ("kl",)),
    ("Length of answers", "tokens", ("response_length",)),
    ("Entropy", "nats a token", ("entropy",)),
    ("Speed", "tokens a second", ("tokens_per_second",)),
)


@dataclass(frozen=True)
class Curve:
    """One metric: its last value, and its points as an SVG polyline in a box of WIDTH by HEIGHT."""

    name: str
    last: float
    points: str
    end: tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """Curves over the same axes, and what the edges of the box stand for."""

    title: str
    unit: str
    curves: tuple[Curve, ...]
    low: float
    high: float
    first_step: int
    last_step: int


def charts(metrics: Sequence[RunMetric]) -> list[Chart]:
    """Return the charts that these metrics (in step order) fill."""
    made = []
    for title, unit, names in CHARTS:
        series = {name: _series(metrics, name) for name in names}
        filled = {name: points for name, points in series.items() if points}
        if filled:
            made.append(_chart(title, unit, filled))
    return made


def last_values(metrics: Sequence[RunMetric]) -> list[tuple[str, float]]:
    """Return the newest number of every metric, by name; the clock and the totals are no metrics."""
    newest: dict[str, float] = {}
    for row in metrics:
        for name, value in row.values.items():
            if _is_number(value) and name not in ("time", "total_steps", "step"):
                newest[name] = float(value)
    return sorted(newest.items())


def seconds_left(run: Run, metrics: Sequence[RunMetric]) -> float | None:
    """Return the seconds a running run will still take at its pace so far; None while that cannot be said."""
    if run.state != "running" or not run.progress_step or not run.progress_total:
        return None
    timed = [(row.step, float(row.values["time"])) for row in metrics if _is_number(row.values.get("time"))]
    # After a resume the clock jumps, so the pace is that of the latest stretch.
    timed = timed[-50:]
    if len(timed) < 2 or timed[-1][0] == timed[0][0]:
        return None
    pace = (timed[-1][1] - timed[0][1]) / (timed[-1][0] - timed[0][0])
    return max(0.0, pace * (run.progress_total - run.progress_step))


def spoken(seconds: float) -> str:
    """Return a duration in the unit a person would choose."""
    whole = timedelta(seconds=round(seconds))
    if whole < timedelta(minutes=2):
        return f"{int(whole.total_seconds())} s"
    if whole < timedelta(hours=2):
        return f"{whole.total_seconds() / 60:.0f} min"
    if whole < timedelta(days=2):
        return f"{whole.total_seconds() / 3600:.1f} h"
    return f"{whole.total_seconds() / 86400:.1f} days"


def duration(run: Run, now: datetime) -> str:
    """Return how long a run has been going or went, from its first claim."""
    if run.started_at is None:
        return "not started"
    return spoken(((run.finished_at or now) - run.started_at).total_seconds())


def number(value: float) -> str:
    """Return a number short enough for a tile, with the digits that matter."""
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}"
    return f"{value:.3g}" if abs(value) < 1e-3 or abs(value) >= 1e5 else f"{value:,.4g}"


def is_figure(value: Any) -> bool:
    """Return whether a report's value is a number or a pair of them (an interval)."""
    if isinstance(value, list):
        return len(value) == 2 and all(_is_number(item) for item in value)
    return _is_number(value)


def label(name: str) -> str:
    """Return a metric's name as people write it."""
    return " ".join({"kl": "KL", "mb": "MB"}.get(word, word) for word in name.split("_"))


def figures(values: dict[str, Any]) -> dict[str, str]:
    """Return a report's numbers in words, by label; `x_interval` stands behind its `x`."""
    found = {}
    for name in sorted(name for name, value in values.items() if is_figure(value)):
        value, interval = values[name], values.get(f"{name}_interval")
        if name.endswith("_interval") and is_figure(values.get(name.removesuffix("_interval"))):
            continue
        text = _words(value)
        found[label(name)] = f"{text} ({_words(interval)})" if is_figure(interval) else text
    return found


def _words(value: Any) -> str:
    return f"{number(value[0])} to {number(value[1])}" if isinstance(value, list) else number(value)


def _series(metrics: Sequence[RunMetric], name: str) -> list[tuple[int, float]]:
    found = [(row.step, float(row.values[name])) for row in metrics if _is_number(row.values.get(name))]
    stride = -(-len(found) // MOST_POINTS)
    return [*found[:-1:stride], found[-1]] if stride > 1 else found


def _chart(title: str, unit: str, series: dict[str, list[tuple[int, float]]]) -> Chart:
    steps = [step for points in series.values() for step, _ in points]
    values = [value for points in series.values() for _, value in points]
    first, last, low, high = min(steps), max(steps), min(values), max(values)
    across, up = max(last - first, 1), (high - low) or 1.0

    def place(step: int, value: float) -> tuple[float, float]:
        middle = HEIGHT / 2 if high == low else HEIGHT - 4 - (value - low) / up * (HEIGHT - 8)
        return round((step - first) / across * WIDTH, 1), round(middle, 1)

    curves = []
    for name, points in series.items():
        placed = [place(step, value) for step, value in points]
        curves.append(Curve(name, points[-1][1], " ".join(f"{x},{y}" for x, y in placed), placed[-1]))
    return Chart(title, unit, tuple(curves), low, high, first, last)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
