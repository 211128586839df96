"""Pictures of the science benches: `science-policies`, `science-grouping` and `science-hh`, each from its rows.

    python -m bench science-plots

Of each bench reads `build/science_NAME.jsonl`, which the bench writes, or else `docs/science/science-NAME.jsonl`, and
writes `docs/science/*.svg`. What has no rows is not drawn. Large points are means over the seeds that the file has,
bars beside them standard errors, and small points the seeds.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, NullLocator, PercentFormatter

from bench import race, science_grouping
from bench.tiny_world import mean_and_error
from trainer.evaluation_plots import COLORS, DARK, GREY
from trainer.report import STYLE

BUILD = race.ROOT / "build"
FOLDER = race.ROOT / "docs" / "science"
SIXTH = "#b59a2a"
KINDS = (
    ("PPO, by coefficient", "ppo "),
    ("DPO, by beta", "dpo "),
    ("no penalty, one head", "single "),
    ("no penalty, mean of four", "mean "),
    ("no penalty, worst of four", "worst "),
    ("no penalty, worst of four models", "models "),
)
TEXTS = {"start": "start", "ppo 0.02": "PPO", "ptx 0.1": "PPO-ptx,\nweight 0.1", "ptx 1": "PPO-ptx,\nweight 1"}
"""The arms that tell what texts of the language mixed into PPO do, and what is written under each."""
WAYS = {"rankings": "whole rankings", "shuffled pairs": "pairs shuffled apart"}
SIDES = {"ours": "Plackett", "peer": "TRL"}

Rows = list[dict[str, Any]]
Panel = tuple[Callable[[Axes, Rows], None], Rows]


def main() -> None:
    """Draw whatever has been measured."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = rows_of("policies")
    if rows:
        draw("gold-over-distance", [(over_distance("gold"), rows), (over_distance("reward"), rows)])
        draw("reward-along-the-run", [(paths, rows)])
    if {row["arm"] for row in rows} >= TEXTS.keys():
        draw("language-and-gold", [(with_texts("language_loss"), rows), (with_texts("gold"), rows)])
    rows = rows_of("grouping")
    if rows:
        draw("rankings-whole-or-apart", [(log_losses, rows), (costs, rows)])
    rows = rows_of("hh")
    if rows:
        draw("real-preferences", [(hh_race, rows)])


def rows_of(name: str) -> Rows:
    """Return what a bench has measured: here, or else what is kept of it in the documentation."""
    for path in (BUILD / f"science_{name}.jsonl", FOLDER / f"science-{name}.jsonl"):
        if path.exists():
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return []


def draw(name: str, panels: Sequence[Panel]) -> Path:
    """Write one picture of some panels side by side."""
    path = FOLDER / f"{name}.svg"
    with rc_context(STYLE):
        figure = Figure(figsize=(4.6 * max(1.3, len(panels)), 3.4), layout="constrained")
        FigureCanvasSVG(figure)
        for axes, (paint, rows) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            paint(axes, rows)
        figure.savefig(path, format="svg", metadata={"Date": None})
    print(path.relative_to(race.ROOT))
    return path


# --- science-policies ------------------------------------------------------------------------------------------------


def over_distance(what: str) -> Callable[[Axes, Rows], None]:
    """Return what draws each kind's policies as points, in the order of their distance."""

    def paint(axes: Axes, rows: Rows) -> None:
        for color, (label, prefix) in zip((*COLORS, SIXTH), KINDS, strict=True):
            arms = dict.fromkeys(row["arm"] for row in rows if row["arm"].startswith(prefix))
            points = sorted(
                (mean(rows, arm, "kl") ** 0.5, mean(rows, arm, what), arm.removeprefix(prefix)) for arm in arms
            )
            if not points:
                continue
            xs, ys, _ = zip(*points, strict=True)
            axes.plot(xs, ys, "o-", color=color, markersize=4, linewidth=1, label=label)
            for x, y, text in points:
                axes.annotate(text, (x, y), textcoords="offset points", xytext=(5, 4), fontsize=7, color="#555555")
        axes.axhline(mean(rows, "start", what), color=GREY, linewidth=0.8, linestyle=":")
        axes.set_title("What people like (gold)" if what == "gold" else "What the reward model says", loc="left")
        axes.set_xlabel("square root of KL to the start (nats an answer)")
        axes.margins(0.12)
        if what == "gold":
            axes.legend(fontsize=7)

    return paint


def paths(axes: Axes, rows: Rows) -> None:
    """Draw the reward of every iteration over its distance, of the newest seed's runs with a penalty."""
    seed = max(row["seed"] for row in rows)
    runs = [row for row in rows if row["seed"] == seed and row["arm"].startswith("ppo ")]
    for color, row in zip(COLORS, runs, strict=False):
        xs, ys = zip(*row["path"], strict=True)
        axes.plot(xs, ys, "o", color=color, markersize=2.5, label=f"coefficient {row['arm'].removeprefix('ppo ')}")
    axes.set_title("Reward along the run", loc="left")
    axes.set_xlabel("square root of KL to the start (nats an answer)")
    axes.set_ylabel("reward (normalised)")
    axes.legend(fontsize=7)


def with_texts(what: str) -> Callable[[Axes, Rows], None]:
    """Return what draws a figure of the start, of PPO, and of PPO with texts of the language mixed in."""

    def paint(axes: Axes, rows: Rows) -> None:
        for place, (color, arm) in enumerate(zip((GREY, COLORS[0], COLORS[2], COLORS[2]), TEXTS, strict=True)):
            seeds(axes, place, [row[what] for row in rows if row["arm"] == arm], color)
        axes.axhline(mean(rows, "start", what), color=GREY, linewidth=0.8, linestyle=":", zorder=1)
        axes.set_xticks(range(len(TEXTS)), list(TEXTS.values()))
        axes.grid(visible=False, axis="x")
        axes.margins(x=0.12, y=0.1)
        loss = what == "language_loss"
        axes.set_title("Loss on texts of the language" if loss else "What people like (gold)", loc="left")
        axes.set_ylabel("nats a token" if loss else "gold score")

    return paint


def mean(rows: Rows, arm: str, what: str) -> float:
    """Return the mean of a figure over seeds."""
    return statistics.fmean(row[what] for row in rows if row["arm"] == arm)


# --- science-grouping ------------------------------------------------------------------------------------------------


def log_losses(axes: Axes, rows: Rows) -> None:
    """Draw log loss over the learning rate, of held-out pairs and of those learned from, both ways."""
    for color, (way, label) in zip(COLORS, WAYS.items(), strict=False):
        for what, style, said in (("held_out_loss", "o-", "held-out"), ("train_loss", "o:", "learned from")):
            points = [
                (rate, *mean_and_error([row[what] for row in rows if (row["rate"], row["way"]) == (rate, way)]))
                for rate in sorted({row["rate"] for row in rows if row["way"] == way})
            ]
            xs, ys, errors = (list(column) for column in zip(*points, strict=True))
            axes.errorbar(xs, ys, errors, fmt=style, color=color, markersize=4, elinewidth=1, label=f"{label}, {said}")
    axes.set_title("Log loss after one epoch", loc="left")
    axes.set_ylabel("nats a pair")
    rate_axis(axes, rows)
    axes.legend(fontsize=7)


def costs(axes: Axes, rows: Rows) -> None:
    """Draw how much more held-out log loss shuffled pairs have than whole rankings of the same seed."""
    for rate in sorted({row["rate"] for row in rows}):
        seeds(axes, rate, science_grouping.shuffling_costs(rows, rate), COLORS[1])
    axes.axhline(0, color=GREY, linewidth=0.8, linestyle=":", zorder=1)
    axes.set_title("What shuffling costs on held-out pairs", loc="left")
    axes.set_ylabel("difference in log loss (nats a pair)")
    rate_axis(axes, rows)


def rate_axis(axes: Axes, rows: Rows) -> None:
    """Give an axis of learning rates, which lie multiples apart, the rates that were tried as its marks."""
    rates = sorted({row["rate"] for row in rows})
    axes.set_xscale("log")
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("learning rate")
    axes.margins(x=0.12)


# --- science-hh ------------------------------------------------------------------------------------------------------


def hh_race(axes: Axes, rows: Rows) -> None:
    """Draw the accuracy of each seed and side with its interval, beside what length alone reaches."""
    numbers = sorted({row["seed"] for row in rows})
    for offset, color, (side, label) in zip((-0.09, 0.09), COLORS, SIDES.items(), strict=False):
        found = sorted((row["seed"], row["accuracy"], *row["interval"]) for row in rows if row["side"] == side)
        if not found:
            continue
        places, rates, lows, highs = zip(*((numbers.index(seed) + offset, *rest) for seed, *rest in found), strict=True)
        axes.vlines(places, lows, highs, color=color, linewidth=1.4)
        axes.plot(places, rates, "o", color=color, markersize=6, label=f"{label}, 95 % interval")
    lengths = statistics.fmean(row["length_only"] for row in rows)
    axes.axhline(lengths, color=DARK, linewidth=1, linestyle="--", zorder=1, label="length alone")
    axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":", zorder=1, label="chance")
    axes.set_xticks(range(len(numbers)), [f"seed {seed}" for seed in numbers])
    axes.grid(visible=False, axis="x")
    axes.margins(x=0.2)
    axes.set_ylim(min(0.48, *(row["interval"][0] for row in rows)), max(row["interval"][1] for row in rows) + 0.06)
    axes.yaxis.set_major_locator(MultipleLocator(0.05))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    pairs, held_out = rows[0]["pairs"], rows[0]["held_out"]
    axes.set_title(f"Held-out pairs of HH ranked as people did, after {pairs} pairs", loc="left")
    axes.set_ylabel(f"share of {held_out} pairs")
    axes.legend(fontsize=7, loc="upper left", ncols=2)


def seeds(axes: Axes, place: float, values: Sequence[float], color: str) -> None:
    """Draw the mean of some seeds with its standard error, and each of them small."""
    if not values:
        return
    middle, error = mean_and_error(values)
    axes.plot([place] * len(values), values, "o", color=color, markersize=3, alpha=0.45, markeredgewidth=0)
    axes.errorbar([place], [middle], [error], fmt="o", color=color, markersize=6, elinewidth=1.4, zorder=3)


if __name__ == "__main__":
    main()
