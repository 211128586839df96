"""The demo's table on the terminal, and `report.md` with its plots: what was found, how, and what it does not show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from app.demo import preference
from app.demo.judge import Interval
from app.demo.results import PROMOTION_RULE, PolicyFigures, Result
from trainer.jsonl import read_jsonl

COLORS = ("#6b6b6b", "#2f5d8a", "#c2702e", "#4b8b5a", "#8a4f7d")
STYLE = {
    "svg.hashsalt": "plackett",  # element ids would be random otherwise
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
}
CURVES = (
    ("sft", "SFT: loss", ("loss",), "nats a token"),
    ("reward", "Reward model: pairs ranked right", ("accuracy",), "share, while training"),
    ("dpo", "DPO: pairs ranked right", ("accuracy",), "share, while training"),
    ("ppo", "PPO: reward of the answers", ("reward",), "normalised"),
)
HEADINGS = ("Policy", "Wins, simulated", "Wins, reward model", "Reward", "KL", "Tokens", "Ended")


def table(result: Result) -> Table:
    """Return the demo's table for the terminal."""
    shown = Table(
        title=f"Wins over the base model on {result.held_out_prompts} held-out prompts", box=SIMPLE_HEAD, pad_edge=False
    )
    for place, heading in enumerate(HEADINGS):
        shown.add_column(heading, justify="right" if place else "left", no_wrap=True)
    for row in result.policies:
        shown.add_row(*_cells(row), style="bold" if row.name == result.promoted else None)
    return shown


def sentences(result: Result) -> list[str]:
    """Return what the table does not hold, a sentence each."""
    accuracy = result.reward.accuracy
    verdict = (
        f"{result.promoted} is promoted: it is better than the base model by the simulated preference."
        if result.is_better
        else f"No policy is shown to be better than the base model by the simulated preference; {result.promoted} "
        "has the highest lower bound and is promoted all the same, so that the loop can go on."
    )
    return [
        (
            f"Reward model: on {result.reward.pairs} held-out pairs it agrees with the simulated labelers in "
            f"{percent(accuracy)}; judging by length alone agrees in {result.reward.length_only:.1%}."
        ),
        f"The simulated labelers agree with one another in {result.agreement:.1%} of the pairs that two of them order.",
        verdict,
    ]


def write(folder: Path, result: Result, runs: Mapping[str, Path], seconds: Mapping[str, float]) -> Path:
    """Write `report.md` and `plots/*.svg` into the demo's folder and return the report's path.

    `runs` are the run directories of sft, reward, dpo and ppo, whose metrics are drawn.
    """
    plots = folder / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    with rc_context(STYLE):
        _draw_curves(plots / "training.svg", runs)
        _draw_reward_by_kl(plots / "reward_by_kl.svg", result.policies)
        _draw_win_rates(plots / "win_rates.svg", result.policies)
    path = folder / "report.md"
    path.write_text(_markdown(result, seconds), encoding="utf-8")
    return path


def percent(interval: Interval) -> str:
    """Return a share with its 95 % interval, in percent."""
    return f"{interval.value:.0%} [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def _cells(row: PolicyFigures) -> tuple[str, ...]:
    return (
        row.name,
        percent(row.by_simulated) if row.by_simulated else "",
        percent(row.by_reward_model) if row.by_reward_model else "",
        f"{row.reward:+.2f}",
        f"{row.kl:.1f}",
        f"{row.tokens:.1f}",
        f"{row.ended:.0%}",
    )


def _markdown(result: Result, seconds: Mapping[str, float]) -> str:
    simulated = " ".join((preference.__doc__ or "").split("\n\n")[0].split())
    examples = "\n\n".join(
        f"**{item.question}**\n\n- base: {_one_line(item.base)}\n- {result.promoted}: {_one_line(item.promoted)}"
        for item in result.examples
    )
    return f"""# {result.project}: one turn of the loop, seed {result.seed}

**All rankings and demonstrations here are simulated.** {simulated} The preference is written down in
`app/demo/preference.py`; it rewards short, finished, plain answers on topic and does not know what is true.

{_bullets(sentences(result))}

{_rows([HEADINGS, ["---"] * len(HEADINGS), *(_cells(row) for row in result.policies)])}

Wins are the share of comparisons with the base model's answers that a policy wins on the {result.held_out_prompts}
held-out prompts, in percent, with 95 % bootstrap intervals over prompts; a tie counts half. KL is in nats an answer, to
the base model. Reward is the reward model's, 0 for the demonstrations on average. *Ended* is the share of answers that
came to an end before the length limit.

Promotion: {PROMOTION_RULE}

Data: {result.train_prompts} prompts to train on and {result.held_out_prompts} held out, {result.rankings} rankings,
{result.demonstrations} demonstrations.

![Training curves](plots/training.svg)

![Reward against the square root of KL](plots/reward_by_kl.svg)

![Win rates](plots/win_rates.svg)

## The first held-out prompts

{examples}

## Time

{_rows([("Step", "Seconds"), ("---", "---:"), *((key, f"{value:.0f}") for key, value in seconds.items())])}
"""


def _one_line(text: str) -> str:
    return " ".join(text.split()) or "(empty)"


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _rows(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _series(run: Path, x: str, y: str) -> tuple[list[float], list[float]]:
    last = {row["step"]: row for _, row in read_jsonl(run / "metrics.jsonl")}
    points = [(row[x], row[y]) for row in last.values() if row.get(x) is not None and row.get(y) is not None]
    return [float(a) for a, _ in points], [float(b) for _, b in points]


def _draw_curves(path: Path, runs: Mapping[str, Path]) -> None:
    figure, axes = _figure(2, 2, (7.6, 5.0))
    for place, (method, title, names, label) in zip(axes, CURVES, strict=True):
        for name in names:
            place.plot(*_series(runs[method], "step", name), color=COLORS[1], linewidth=1.6)
        place.set_title(title, loc="left", fontsize=10)
        place.set_xlabel("iteration" if method == "ppo" else "step")
        place.set_ylabel(label)
    _save(figure, path)


def _draw_reward_by_kl(path: Path, policies: Sequence[PolicyFigures]) -> None:
    figure, (axes,) = _figure(1, 1, (5.6, 3.4))
    for color, row in zip(COLORS, policies, strict=False):
        axes.plot(math.sqrt(max(row.kl, 0.0)), row.reward, "o", markersize=7, color=color, label=row.name)
    axes.legend(loc="best")  # names beside the points would cover one another: trained policies lie close together
    axes.margins(0.15)
    axes.set_title("Reward against distance from the base model, held-out prompts", loc="left", fontsize=10)
    axes.set_xlabel("square root of KL (nats an answer)")
    axes.set_ylabel("reward (normalised)")
    _save(figure, path)


def _draw_win_rates(path: Path, policies: Sequence[PolicyFigures]) -> None:
    figure, (axes,) = _figure(1, 1, (5.6, 3.2))
    judged = [row for row in policies if row.by_simulated is not None]
    for offset, color, label, name in (
        (-0.12, COLORS[1], "simulated preference", "by_simulated"),
        (0.12, COLORS[2], "reward model", "by_reward_model"),
    ):
        rates: list[Interval] = [getattr(row, name) for row in judged]
        axes.errorbar(
            [place + offset for place in range(len(judged))],
            [rate.value for rate in rates],
            yerr=[[rate.value - rate.low for rate in rates], [rate.high - rate.value for rate in rates]],
            fmt="o",
            capsize=3,
            color=color,
            label=label,
        )
    axes.axhline(0.5, color="#8c8c8c", linewidth=1, linestyle="--")
    axes.set_xticks(range(len(judged)), [row.name for row in judged])
    axes.set_xlim(-0.5, len(judged) - 0.5)
    axes.set_ylim(0, 1.02)
    axes.set_title("Win rate over the base model, 95 % interval", loc="left", fontsize=10)
    axes.legend(loc="lower right")
    _save(figure, path)


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """Return a figure with its axes, made without pyplot and so without global state."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasSVG(figure)
    return figure, [figure.add_subplot(rows, columns, number) for number in range(1, rows * columns + 1)]


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None})
