"""Metrics of one run or of several as curves: which metrics share a chart, and where each point lies. Pure arithmetic.

One run: metrics of one kind share a pair of axes. Several runs: a chart for each metric, a curve for each run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from app.models import RunMetric
from app.services.training import charts

Axis = Literal["step", "time"]
AXES: dict[Axis, str] = {"step": "Steps", "time": "Time since the start"}

WIDTH, HEIGHT = 300, 96
MOST_POINTS = 240
LETTERS = "ABCDE"
MOST_TRACES = len(LETTERS)
"""So many line styles can be told apart, without colour too."""

# Title, unit, and the metrics that share one pair of axes. What a run did not write is left out.
LEARNING = (
    ("Loss", "nats", ("loss", "held_out_loss")),
    ("Accuracy", "share of pairs", ("accuracy", "held_out_accuracy")),
    ("Margin", "reward difference", ("margin", "held_out_margin")),
    ("Reward", "normalised", ("reward", "objective")),
    ("KL to the reference", "nats a sequence", ("kl",)),
    ("Entropy", "nats a token", ("entropy",)),
    ("Length of answers", "tokens", ("response_length",)),
    ("Answers that end by themselves", "share", ("ended",)),
    ("Log-probability of answers", "nats", ("chosen_logp", "rejected_logp")),
    ("Log-probability since the start", "nats", ("chosen_log_ratio", "rejected_log_ratio")),
    ("Losses", "policy and value", ("policy_loss", "value_loss")),
    ("Speed", "tokens a second", ("tokens_per_second",)),
)
MECHANICS = (
    ("Learning rate", "", ("learning_rate",)),
    ("Gradient norm", "before clipping", ("grad_norm",)),
    ("Clipped", "share of tokens", ("clip_fraction", "value_clip_fraction")),
    ("KL of an update", "nats a token", ("approx_kl",)),
    ("KL coefficient", "", ("kl_coefficient",)),
    ("Value fit", "explained variance", ("explained_variance",)),
    ("Time of an iteration", "seconds", ("rollout_seconds", "estimate_seconds", "update_seconds")),
    ("Memory", "MiB, the most so far", ("peak_memory_mb",)),
    ("Use of the GPUs", "share of their peak", ("mfu",)),
)
BOOKKEEPING = frozenset({"step", "time", "total_steps", "epoch", "episodes", "tokens"})


@dataclass(frozen=True)
class Trace:
    """A run as curves show it: its name in the charts' legends, and its metrics in step order."""

    name: str
    metrics: Sequence[RunMetric]


@dataclass(frozen=True)
class Curve:
    """One line: its name, the number of its style, its last value, and an SVG polyline in WIDTH by HEIGHT."""

    name: str
    style: int
    last: str
    points: str
    end: tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """Curves over the same axes, and what the edges of the box stand for."""

    title: str
    unit: str
    curves: tuple[Curve, ...]
    low: str
    high: str
    first: str
    last: str


Points = list[tuple[float, float]]


def of_run(metrics: Sequence[RunMetric]) -> list[Chart]:
    """Return the charts of how one run learns, over its steps."""
    return learning([Trace("", metrics)])


def learning(traces: Sequence[Trace], axis: Axis = "step") -> list[Chart]:
    """Return the charts of what is learned: loss, reward, KL and the like."""
    return _charts(LEARNING, traces, axis)


def mechanics(traces: Sequence[Trace], axis: Axis = "step") -> list[Chart]:
    """Return the charts of everything else that the runs wrote, also metrics that this release does not know."""
    known = {name for _, _, names in (*LEARNING, *MECHANICS) for name in names} | BOOKKEEPING
    found = {
        name for trace in traces for row in trace.metrics for name, value in row.values.items() if _is_number(value)
    }
    others = tuple((charts.title(name), "", (name,)) for name in sorted(found - known))
    return _charts((*MECHANICS, *others), traces, axis)


def _charts(groups: Sequence[tuple[str, str, tuple[str, ...]]], traces: Sequence[Trace], axis: Axis) -> list[Chart]:
    made = []
    for title, unit, names in groups:
        if len(traces) == 1:
            series = [(charts.label(name), _series(traces[0].metrics, name, axis)) for name in names]
            made += _chart(title, unit, series, axis)
            continue
        for name in names:
            series = [(trace.name, _series(trace.metrics, name, axis)) for trace in traces]
            several = len(names) > 1 and charts.title(name) != title
            made += _chart(f"{title}: {charts.label(name)}" if several else title, unit, series, axis)
    return made


def _chart(title: str, unit: str, series: Sequence[tuple[str, Points]], axis: Axis) -> list[Chart]:
    """Return a chart of the series, styled by their places, or nothing where none has a point."""
    everything = [point for _, points in series for point in points]
    if not everything:
        return []
    first, last = min(x for x, _ in everything), max(x for x, _ in everything)
    low, high = min(y for _, y in everything), max(y for _, y in everything)
    across, up = (last - first) or 1.0, (high - low) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        middle = HEIGHT / 2 if high == low else HEIGHT - 4 - (y - low) / up * (HEIGHT - 8)
        return round((x - first) / across * WIDTH, 1), round(middle, 1)

    curves = []
    for style, (name, points) in enumerate(series, start=1):
        if points:
            placed = [place(x, y) for x, y in points]
            curves.append(
                Curve(name, style, charts.number(points[-1][1]), " ".join(f"{x},{y}" for x, y in placed), placed[-1])
            )
    return [
        Chart(
            title, unit, tuple(curves), charts.number(low), charts.number(high), _edge(first, axis), _edge(last, axis)
        )
    ]


def _edge(value: float, axis: Axis) -> str:
    return charts.spoken(value) if axis == "time" else f"step {int(value)}"


def _series(metrics: Sequence[RunMetric], name: str, axis: Axis) -> Points:
    found = [(_x(metrics, row, axis), row.values.get(name)) for row in metrics]
    points = [(x, float(value)) for x, value in found if x is not None and _is_number(value)]
    stride = -(-len(points) // MOST_POINTS)
    return [*points[:-1:stride], points[-1]] if stride > 1 else points


def _x(metrics: Sequence[RunMetric], row: RunMetric, axis: Axis) -> float | None:
    if axis == "step":
        return float(row.step)
    start, here = metrics[0].values.get("time"), row.values.get("time")
    return float(here - start) if _is_number(start) and _is_number(here) else None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
