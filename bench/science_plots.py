"""Pictures of `science-policies`: what reward model and gold say over the distance from the start, and along the way.

    python -m bench science-plots
    python -m bench.science_plots docs/science/science-policies.jsonl

Reads `build/science_policies.jsonl`, or the file that is named, and writes `docs/science/*.svg`. Points are means over
the seeds that the file has.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from bench import race
from bench.science_policies import OUTPUT
from trainer.evaluation_plots import COLORS
from trainer.report import STYLE

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


def main(file: str | None = None) -> None:
    """Draw both pictures."""
    text = Path(file or OUTPUT).read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    FOLDER.mkdir(parents=True, exist_ok=True)
    draw("gold-over-distance", [("gold", rows), ("reward", rows)])
    draw("reward-along-the-run", [("path", rows)])


def draw(name: str, panels: list[tuple[str, list[dict[str, Any]]]]) -> None:
    """Write one picture of some panels side by side."""
    with rc_context(STYLE):
        figure = Figure(figsize=(4.6 * max(1.3, len(panels)), 3.4), layout="constrained")
        FigureCanvasSVG(figure)
        for axes, (what, rows) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            axes.set_xlabel("square root of KL to the start (nats an answer)")
            if what == "path":
                paths(axes, rows)
            else:
                over_distance(axes, rows, what)
        figure.savefig(FOLDER / f"{name}.svg", format="svg", metadata={"Date": None})


def over_distance(axes: Axes, rows: list[dict[str, Any]], what: str) -> None:
    """Draw each kind's policies as points, in the order of their distance."""
    for color, (label, prefix) in zip((*COLORS, SIXTH), KINDS, strict=True):
        arms = dict.fromkeys(row["arm"] for row in rows if row["arm"].startswith(prefix))
        points = sorted((mean(rows, arm, "kl") ** 0.5, mean(rows, arm, what), arm.removeprefix(prefix)) for arm in arms)
        if not points:
            continue
        xs, ys, _ = zip(*points, strict=True)
        axes.plot(xs, ys, "o-", color=color, markersize=4, linewidth=1, label=label)
        for x, y, text in points:
            axes.annotate(text, (x, y), textcoords="offset points", xytext=(5, 4), fontsize=7, color="#555555")
    axes.axhline(mean(rows, "start", what), color="#8c8c8c", linewidth=0.8, linestyle=":")
    axes.set_title("What people like (gold)" if what == "gold" else "What the reward model says", loc="left")
    axes.margins(0.12)
    if what == "gold":
        axes.legend(fontsize=7)


def paths(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Draw the reward of every iteration over its distance, of the newest seed's runs with a penalty."""
    seed = max(row["seed"] for row in rows)
    runs = [row for row in rows if row["seed"] == seed and row["arm"].startswith("ppo ")]
    for color, row in zip(COLORS, runs, strict=False):
        xs, ys = zip(*row["path"], strict=True)
        axes.plot(xs, ys, "o", color=color, markersize=2.5, label=f"coefficient {row['arm'].removeprefix('ppo ')}")
    axes.set_title("Reward along the run", loc="left")
    axes.set_ylabel("reward (normalised)")
    axes.legend(fontsize=7)


def mean(rows: list[dict[str, Any]], arm: str, what: str) -> float:
    """Return the mean of a figure over seeds."""
    return statistics.fmean(row[what] for row in rows if row["arm"] == arm)


if __name__ == "__main__":
    main(*sys.argv[1:2])
