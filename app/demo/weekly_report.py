"""The weekly form's table on the terminal, and `report.md`: a row a round, what the gate said, and when rounds tire."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from app.demo import preference
from app.services.training.round_figures import RoundFigures, Rounds

HEADINGS = (
    "Round",
    "Rankings",
    "New",
    "Ties",
    "Reward accuracy",
    "Candidate",
    "Over",
    "Win rate (blind)",
    "By reward model",
    "KL",
    "Gate",
)


def table(result: Rounds) -> Table:
    """Return the rounds for the terminal."""
    shown = Table(title="Rounds that the schedule has run", box=SIMPLE_HEAD, pad_edge=False)
    for place, heading in enumerate(HEADINGS):
        shown.add_column(heading, justify="right" if place in (0, 1, 2, 3, 9) else "left")
    for row in result.rounds:
        shown.add_row(*_cells(row))
    return shown


def write(folder: Path, result: Rounds, due: Mapping[str, int], seconds: Mapping[str, float], seed: int) -> Path:
    """Write `report.md` into the demo's folder and return its path. `due` says what became of the due times."""
    path = folder / "report.md"
    simulated = " ".join((preference.__doc__ or "").split("\n\n")[0].split())
    verdicts = [
        f"- Round {row.number}: {' '.join(row.unmet) or 'every threshold is met.'}"
        for row in result.rounds
        if row.passed is not None
    ]
    times = [f"- {count} times: {what}" for what, count in sorted(due.items(), key=lambda item: -item[1])]
    rows = [HEADINGS, ("---",) * len(HEADINGS), *(_cells(row) for row in result.rounds)]
    path.write_text(
        f"""# {len(result.rounds)} weekly rounds, run by a schedule, seed {seed}

**All rankings here are simulated.** {simulated} The preference is written down in `app/demo/preference.py`.

{_lines(rows)}

Ties are the share of pairs that labelers tied since the round before. Reward accuracy is on held-out pairs, the win
rate on held-out prompts: by labelers who did not know which answer is whose (the interval is a confidence sequence,
which may be looked at at any time), and beside it by the reward model. KL is in nats an answer, from the policy in use.

## The gate

{chr(10).join(verdicts) or "No round has come to its gate."}

## Do the rounds still teach?

{result.saturation.sentence}
{"".join(f"{chr(10)}- {sign}" for sign in result.saturation.signs)}

## What became of the schedule's due times

{chr(10).join(times)}

## Time

{_lines([("Step", "Seconds"), ("---", "---:"), *((key, f"{value:.0f}") for key, value in seconds.items())])}
""",
        encoding="utf-8",
    )
    return path


def _cells(row: RoundFigures) -> tuple[str, ...]:
    measured = row.measured
    by_people = row.judged_by == "people, blind"
    gate = "-" if row.passed is None else "promoted" if row.promoted else "passed" if row.passed else "not passed"
    return (
        str(row.number),
        str(row.rankings),
        str(row.new_rankings),
        _share(measured.ties),
        _share(row.accuracy, *(row.accuracy_interval or (None, None))),
        row.candidate or "-",
        row.incumbent or "-",
        _share(measured.win_rate, measured.low, measured.high) if by_people else "-",
        _share(row.reward_win_rate),
        "-" if measured.kl is None else f"{measured.kl:.1f}",
        gate,
    )


def _share(value: float | None, low: float | None = None, high: float | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.0%}" if low is None or high is None else f"{value:.0%} [{100 * low:.0f}, {100 * high:.0f}]"


def _lines(rows: list[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
