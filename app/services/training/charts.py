"""A run's numbers as a person reads them: values, durations, intervals, and how long the run will still take."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from app.models import Run, RunMetric


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


def memory(mebibytes: float) -> str:
    """Return an amount of memory, given in MiB."""
    return f"{mebibytes / 1024:.1f} GiB" if mebibytes >= 1024 else f"{mebibytes:.0f} MiB"


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


def title(name: str) -> str:
    """Return a metric's name as it stands at the head of something."""
    words = label(name)
    return words[:1].upper() + words[1:]


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


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
