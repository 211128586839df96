"""The report of a run: `report.json` for programs, `report.md` and `plots/*.svg` for the person who reads it first.

RUN_DIR/report.json    {"schema", "run_id", "method", "seed", "model", "config_sha256", "data", "versions",
                        "seconds", "steps", "summary": {…}}
RUN_DIR/report.md      a headline sentence, one or two small tables, the plots
RUN_DIR/plots/*.svg    drawn from `metrics.jsonl` and from the summary; the same input gives the same bytes
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import evaluation_plots, frontier, rollout_plots
from trainer.config import RunConfig, dump_run
from trainer.evaluation_plots import COLORS
from trainer.jsonl import canonical, read_jsonl

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REPORT_SCHEMA = 1
PACKAGES = ("plackett", "torch", "transformers", "peft", "safetensors", "numpy")
STYLE = {
    "svg.hashsalt": "plackett",  # element ids would be random otherwise
    "svg.fonttype": "none",  # text stays text: searchable and small
    "font.size": 9,
    "axes.edgecolor": "#8c8c8c",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}

FIRST_COLUMNS = {
    "accuracy_on_labelers": "labelers",
    "agreement_by_probability": "certainty",
    "reward_by_sqrt_kl": "fit",
    "reward_over_sqrt_kl": "fit",
}
"""What the rows of a table are, where its key does not say it after `_by_`."""
NOTES = {
    "reward_over_sqrt_kl": (
        "With d = √KL (nats a sequence), linear is start + slope · d and gao is start + d · (alpha - beta · log d), "
        "which turns at d = peak (Gao et al. 2022). The reward model's own score says nothing of what people would "
        "like there."
    ),
}
SPELLINGS = {
    "held_out": "held-out",
    "length_only": "length-only",
    "logp": "log-probability",
    "log_ratio": "log-ratio",
    "r_squared": "R²",
    "self_bleu": "self-BLEU",
    "sqrt_kl": "√KL",
    "kl": "KL",
}
"""Parts of keys that people write otherwise."""
_SPELLED = re.compile(rf"(?<![a-z])({'|'.join(SPELLINGS)})(?![a-z])")

Metrics = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Plot:
    """One picture: which metrics over which axis. A metric that the run did not write is left out."""

    name: str
    title: str
    y: tuple[str, ...]
    y_label: str
    x: str = "step"
    x_label: str = "step"


LOSS = Plot("loss", "Loss", ("loss", "held_out_loss"), "loss (nats)")
ACCURACY = Plot("accuracy", "Pairs ranked as the labelers did", ("accuracy", "held_out_accuracy"), "share of pairs")
MARGIN = Plot("margin", "Margin between better and worse answer", ("margin", "held_out_margin"), "reward difference")
ROLLOUTS = (
    Plot("reward", "Reward of the rollouts", ("reward", "objective"), "reward (normalised)", x_label="iteration"),
    Plot("kl", "KL to the reference", ("kl",), "KL (nats a sequence)", x_label="iteration"),
    Plot(
        "reward_by_kl",
        "Reward against distance from the reference",
        ("reward",),
        "reward (normalised)",
        "sqrt_kl",
        "square root of KL (nats a sequence)",
    ),
    Plot("length", "Length of the answers", ("response_length",), "tokens", x_label="iteration"),
    Plot("entropy", "Entropy of the policy", ("entropy",), "entropy (nats a token)", x_label="iteration"),
    Plot("loss", "Losses", ("policy_loss", "value_loss", "ptx_loss"), "loss", x_label="iteration"),
    Plot(
        "clipped",
        "Tokens whose loss was clipped, of the policy and of its values",
        ("clip_fraction", "value_clip_fraction"),
        "share of tokens",
        x_label="iteration",
    ),
)
PLOTS: dict[str, tuple[Plot, ...]] = {
    "sft": (LOSS,),
    "reward": (LOSS, ACCURACY, MARGIN),
    "dpo": (
        LOSS,
        ACCURACY,
        MARGIN,
        Plot("logps", "Log-probability of the answers", ("chosen_logp", "rejected_logp"), "log-probability (nats)"),
        Plot(
            "log_ratios",
            "Log-probability of the answers since the start",
            ("chosen_log_ratio", "rejected_log_ratio"),
            "difference to the reference (nats)",
        ),
    ),
    "kto": (LOSS, ACCURACY, MARGIN),
    "ppo": ROLLOUTS,
    "rloo": ROLLOUTS,
    "evaluate": (),
    "score": (),
    "sample": (Plot("speed", "Sampling speed", ("tokens_per_second",), "tokens a second", x_label="prompts done"),),
    "revise": (Plot("speed", "Sampling speed", ("tokens_per_second",), "tokens a second", x_label="prompts done"),),
    "feedback": (Plot("decided", "Both orders agree", ("decided",), "share of pairs", x_label="pairs done"),),
}


def write(run_dir: Path, config: RunConfig, summary: Mapping[str, Any]) -> None:
    """Write the report of a finished run into `run_dir`.

    `summary["headline"]`, if there, is the first sentence. `summary["policies"]`, if there, maps a policy's name to its
    figures and becomes a table of its own, as does any other figure of figures (`accuracy_by_labeler`). A pair of
    numbers under a key that ends in `_interval` is a 95 % interval, and stands in brackets behind what it is of.
    Numbers that are not finite become null.
    """
    metrics = read_metrics(run_dir)
    finite = _finite(dict(summary))
    plots = _draw_all(run_dir / "plots", config.method, metrics, finite)
    report = {
        "schema": REPORT_SCHEMA,
        "run_id": config.run_id,
        "method": config.method,
        "model": config.model,
        "seed": config.seed,
        "config_sha256": hashlib.sha256(canonical(dump_run(config))).hexdigest(),
        "data": _data_manifest(run_dir),
        "versions": versions(),
        "seconds": _seconds(metrics),
        "steps": metrics[-1]["step"] if metrics else 0,
        "summary": finite,
    }
    _replace(run_dir / "report.md", _markdown(report, plots))
    _replace(run_dir / "report.json", json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_metrics(run_dir: Path) -> Metrics:
    """Return the lines of `metrics.jsonl` by step; of a step written twice (resumed after a crash) the later one."""
    path = run_dir / "metrics.jsonl"
    rows = [row for _, row in read_jsonl(path)] if path.exists() else []
    last = {row["step"]: row for row in rows}
    return [last[step] for step in sorted(last)]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a run's numbers."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def _seconds(metrics: Metrics) -> float:
    """Time from the first line of the metrics to the last; a pause between stop and resume counts."""
    return round(metrics[-1]["time"] - metrics[0]["time"], 3) if metrics else 0.0


def _data_manifest(run_dir: Path) -> Any:
    path = run_dir / "data" / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _replace(path: Path, text: str) -> None:
    """Write a whole file or none."""
    aside = path.with_name(path.name + ".part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)  # noqa: PTH105  # one atomic rename; Path.replace reads like str.replace


# --- report.md -------------------------------------------------------------------------------------------------------


def _markdown(report: dict[str, Any], plots: list[tuple[str, str]]) -> str:
    summary = dict(report["summary"])
    headline = summary.pop("headline", None) or f"The {report['method']} run ended after {report['steps']} steps."
    # A figure of figures is a table of its own: of policies, or by labeler, by length.
    tables = {key: value for key, value in summary.items() if _is_table(value)}
    parts = [f"# {report['method']}: {report['run_id']}", headline]
    policies = tables.pop("policies", None)
    if policies:
        parts.append(_figure_table("policy", policies))
    summary = {key: value for key, value in summary.items() if not _is_table(value)}
    if summary:
        parts.append(table(("measure", "value"), [(words(key), text) for key, text in _cells(summary).items()]))
    for key, figures in tables.items():
        title = words(key)
        parts += [f"## {title[0].upper()}{title[1:]}", _figure_table(_first_column(key), figures)]
        parts += [NOTES[key]] if key in NOTES else []
    parts += [f"![{title}](plots/{name}.svg)" for name, title in plots]
    facts = [
        ("model", f"`{report['model']}`"),
        ("seed", str(report["seed"])),
        ("time", f"{report['seconds']:.0f} s"),
        ("configuration (sha256)", f"`{report['config_sha256'][:16]}`"),
        *((name, version) for name, version in report["versions"].items()),
    ]
    parts += ["## To repeat it", table(("what", "value"), facts)]
    return "\n\n".join(parts) + "\n"


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(item, dict) for item in value.values())


def _first_column(key: str) -> str:
    """Return what the rows of a table are: what its figures are told apart by."""
    what, by, kind = key.partition("_by_")
    return FIRST_COLUMNS.get(key) or words(kind if by else what)


def _figure_table(kind: str, rows_by_name: dict[str, dict[str, Any]]) -> str:
    cells_by_name = {name: _cells(figures) for name, figures in rows_by_name.items()}
    columns = list(dict.fromkeys(key for cells in cells_by_name.values() for key in cells))
    rows = [(name or "-", *(cells.get(key, "-") for key in columns)) for name, cells in cells_by_name.items()]
    return table((kind, *map(words, columns)), rows)


def _cells(figures: dict[str, Any]) -> dict[str, str]:
    """Return figures as they stand in a table; an interval stands behind what it is of."""
    cells = {key: cell(value) for key, value in figures.items()}
    for key in figures:
        interval = cells.pop(f"{key}_interval", None)
        if interval is not None:
            cells[key] += f" ({interval})"
    return {key: f"`{text[:16]}`" if key.endswith("_sha256") else text for key, text in cells.items()}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def words(key: str) -> str:
    """Return a key as people write it."""
    return _SPELLED.sub(lambda found: SPELLINGS[found[0]], key).replace("_", " ")


def cell(value: Any) -> str:
    """Return a value as it stands in a table."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and len(value) == 2:
        return f"{cell(value[0])} to {cell(value[1])}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {cell(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(cell, value))
    return str(value)


# --- plots -----------------------------------------------------------------------------------------------------------


def _draw_all(folder: Path, method: str, metrics: Metrics, summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Draw every plot that has data and return (file name without .svg, title) of each."""
    drawn = []
    for plot in PLOTS[method]:
        lines = {key: _points(metrics, plot.x, key) for key in plot.y}
        lines = {key: points for key, points in lines.items() if points}
        if lines:
            _draw(folder / f"{plot.name}.svg", plot.title, plot.x_label, plot.y_label, _painter(plot, lines, summary))
            drawn.append((plot.name, plot.title))
    for picture in evaluation_plots.pictures(summary):
        _draw(folder / f"{picture.name}.svg", picture.title, picture.x_label, picture.y_label, picture.paint)
        drawn.append((picture.name, picture.title))
    return drawn


def _points(metrics: Metrics, x: str, y: str) -> list[tuple[float, float]]:
    points = []
    for row in metrics:
        value = row.get(y)
        place = frontier.distance(row["kl"]) if x == "sqrt_kl" and row.get("kl") is not None else row.get(x)
        if isinstance(value, (int, float)) and isinstance(place, (int, float)) and math.isfinite(value):
            points.append((float(place), float(value)))
    return points


def _painter(
    plot: Plot, lines: dict[str, list[tuple[float, float]]], summary: dict[str, Any]
) -> Callable[[Axes], None]:
    if plot.x == "sqrt_kl":
        return rollout_plots.frontier_painter(lines["reward"], summary.get("reward_over_sqrt_kl") or {})
    return _line_painter(lines)


def _line_painter(lines: dict[str, list[tuple[float, float]]]) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        for color, (key, points) in zip(COLORS, lines.items(), strict=False):
            marker = "o" if len(points) < 30 else ""
            xs, ys = zip(*points, strict=True)
            axes.plot(xs, ys, marker=marker, markersize=3.5, color=color, label=words(key))
        if len(lines) > 1:
            axes.legend()

    return paint


def _draw(path: Path, title: str, x_label: str, y_label: str, paint: Callable[[Axes], None]) -> None:
    # Imported here because drawing is the last second of a run; without pyplot there is no global state either.
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.2))
        FigureCanvasSVG(figure)
        # Fixed margins: a layout engine would draw every picture twice.
        axes = figure.add_axes((0.13, 0.15, 0.84, 0.74))
        paint(axes)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if x_label in ("step", "iteration", "prompts done"):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.savefig(path, format="svg", metadata={"Date": None})
