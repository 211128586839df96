"""The pictures of an evaluation, from its summary alone: what to draw on which axes. `trainer.report` draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#2f5d8a", "#c2702e", "#4b8b5a", "#8a4f7d", "#6b6b6b")
GREY, DARK = "#8c8c8c", "#333333"

Figures = dict[str, Any]


class Picture(NamedTuple):
    """One picture: the file's name without .svg, what stands around the axes, and what is painted on them."""

    name: str
    title: str
    x_label: str
    y_label: str
    paint: Callable[[Axes], None]


def pictures(summary: Figures) -> Iterator[Picture]:
    """Yield the pictures for which the summary has figures."""
    policies: dict[str, Figures] = summary.get("policies") or {}
    placed = _with(policies, "kl", "reward")
    if placed:
        title = "Reward against distance from the reference"
        label = "square root of KL (nats a sequence)"
        yield Picture("reward_by_kl", title, label, "reward (normalised)", _frontier(placed, summary))
    judged = _with(policies, "win_rate")
    if judged:
        title = "Win rate against the baseline, 95 % interval"
        yield Picture("win_rate", title, "", "share of comparisons won", _win_rates(judged))
    bins: dict[str, Figures] = summary.get("agreement_by_probability") or {}
    if bins:
        title = "How far the reward model's certainty is earned"
        label = "probability that it gives its preference"
        yield Picture("calibration", title, label, "share of labelers who agree", _reliability(bins))
    lengths = _with(policies, "tokens")
    if len(lengths) > 1:
        yield Picture("length", "Length of the answers", "", "tokens", _bars(lengths, "tokens"))
    choices = _with(policies, "choice_accuracy")
    if len(choices) > 1:
        title = "Multiple choice, 95 % interval"
        yield Picture("choice_accuracy", title, "", "share answered right", _bars(choices, "choice_accuracy"))


def _with(policies: dict[str, Figures], *keys: str) -> dict[str, Figures]:
    return {name: row for name, row in policies.items() if all(row.get(key) is not None for key in keys)}


def _frontier(policies: dict[str, Figures], summary: Figures) -> Callable[[Axes], None]:
    """Paint each policy's reward, its gold reward as a ring, and the line through the rewards where one was fitted."""

    def paint(axes: Axes) -> None:
        places = {name: math.sqrt(max(row["kl"], 0.0)) for name, row in policies.items()}
        line = (summary.get("reward_by_sqrt_kl") or {}).get("linear")
        if line:
            ends = [min(places.values()), max(places.values())]
            heights = [line["start"] + line["slope"] * end for end in ends]
            axes.plot(ends, heights, "--", color=GREY, linewidth=1.2, label="least-squares line")
        for index, (name, row) in enumerate(policies.items()):
            x, color = places[name], COLORS[index % len(COLORS)]
            axes.plot([x], [row["reward"]], "o", markersize=6, color=color)
            axes.annotate(name, (x, row["reward"]), xytext=(6, 4), textcoords="offset points", color=color)
            if row.get("gold") is not None:
                axes.plot([x, x], [row["reward"], row["gold"]], ":", color=color, linewidth=1)
                label = "gold judge" if index == 0 else None
                axes.plot([x], [row["gold"]], "o", markersize=6, color=color, markerfacecolor="none", label=label)
        axes.margins(0.15)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()

    return paint


def _win_rates(policies: dict[str, Figures]) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        _bars(policies, "win_rate")(axes)
        axes.axhline(0.5, color=GREY, linewidth=1, linestyle="--")
        axes.set_ylim(0, 1)

    return paint


def _bars(policies: dict[str, Figures], key: str) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        for index, (name, row) in enumerate(policies.items()):
            axes.bar([name], [row[key]], width=0.5, color=COLORS[index % len(COLORS)], alpha=0.85)
            interval = row.get(f"{key}_interval")
            if interval:
                axes.vlines([name], [interval[0]], [interval[1]], color=DARK, linewidth=1.2)

    return paint


def _reliability(bins: dict[str, Figures]) -> Callable[[Axes], None]:
    """Paint the reliability diagram: on the diagonal the reward model is as sure as it may be; areas are pairs."""

    def paint(axes: Axes) -> None:
        rows = list(bins.values())
        most = max(row["pairs"] for row in rows)
        xs, ys = [row["probability"] for row in rows], [row["right"] for row in rows]
        axes.plot([0.5, 1], [0.5, 1], "--", color=GREY, linewidth=1)
        axes.plot(xs, ys, "-", color=COLORS[0])
        axes.scatter(xs, ys, s=[8 + 72 * row["pairs"] / most for row in rows], color=COLORS[0], zorder=3)
        axes.set_xlim(0.48, 1.02)
        axes.set_ylim(min(0.45, *ys) - 0.03, 1.03)

    return paint
