"""The weekly form's table on the terminal, and `report.md`: a chapter a round, and whether rounds still teach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from app.demo import preference, weekly_plan
from app.services.evaluation import gate
from app.services.training.round_figures import RoundFigures, Rounds, Source

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
SHOWN = {
    "Round": "Round",
    "Rankings": "Rankings",
    "Reward accuracy": "Reward",
    "Candidate": "Policy",
    "Over": "Over",
    "Win rate (blind)": "Wins, blind",
    "KL": "KL",
    "Gate": "Gate",
}
"""The columns that a terminal of 80 characters has room for, and what they are called there."""


@dataclass(frozen=True)
class Told:
    """All that the report tells. `due` says what became of the due times; the rest are seconds, of stages and steps."""

    result: Rounds
    due: Mapping[str, int]
    stages: Mapping[int, Sequence[tuple[str, float]]]
    steps: Mapping[str, float]
    seed: int


def table(result: Rounds) -> Table:
    """Return the rounds for the terminal; the report has all their figures."""
    shown = Table(title="Rounds that the schedule has run", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in SHOWN.values():
        shown.add_column(heading, justify="right" if heading in {"Round", "Rankings", "KL"} else "left")
    for row in result.rounds:
        cells = dict(zip(HEADINGS, _cells(row), strict=True))
        shown.add_row(*(cells[heading] for heading in SHOWN))
    return shown


def sentences(result: Rounds) -> list[str]:
    """Return what came of it, a sentence each: every round, the policy in use at the end, and whether rounds teach."""
    told = [f"Round {row.number}: {outcome(row)}" for row in result.rounds]
    promoted = [row.candidate for row in result.rounds if row.promoted]
    if promoted:
        told.append(f"In use at the end: {promoted[-1]}, promoted by the gate.")
    elif result.rounds:
        told.append(f"In use at the end: {result.rounds[-1].incumbent}, as before; no candidate has passed the gate.")
    return [*told, result.saturation.sentence]


def outcome(row: RoundFigures) -> str:
    """Return how a round came out, in one sentence: how often its policy wins, and what the gate made of it."""
    measured = row.measured
    if row.candidate is None or measured.win_rate is None:
        return "no new policy was judged."
    wins = f"{row.candidate} wins {_share(measured.win_rate, measured.low, measured.high)} over {row.incumbent}"
    by = f"by {row.judged} blind judgements" if row.judged_by == "people, blind" else "by the reward model"
    if row.passed is None:
        return f"{wins}, {by}."
    if row.passed:
        return f"{wins}, {by}; it passes the gate{' and is promoted' if row.promoted else ''}."
    return f"{wins}, {by}; it does not pass the gate, and {row.incumbent} stays in use."


def write(folder: Path, told: Told) -> Path:
    """Write `report.md` into the demo's folder and return its path."""
    path = folder / "report.md"
    result = told.result
    simulated = " ".join((preference.__doc__ or "").split("\n\n")[0].split())
    times = [f"- {count} times: {what}" for what, count in sorted(told.due.items(), key=lambda item: -item[1])]
    rankings = sum(row.new_rankings for row in result.rounds)
    judgements = sum(row.judged or 0 for row in result.rounds)
    steps = [("Step", "Seconds"), ("---", "---:"), *((key, f"{value:.0f}") for key, value in told.steps.items())]
    whole = sum(told.steps.values())
    path.write_text(
        f"""# {len(result.rounds)} weekly rounds, run by a schedule, seed {told.seed}

**All rankings here are simulated.** {simulated} The preference is written down in `app/demo/preference.py`.

{_bullets(sentences(result))}

{_lines([HEADINGS, ("---",) * len(HEADINGS), *(_cells(row) for row in result.rounds)])}

Ties are the share of pairs that labelers tied since the round before. Reward accuracy is on held-out pairs, the win
rate on held-out prompts: by labelers who did not know which answer is whose (the interval is a confidence sequence,
which may be looked at at any time), and beside it by the reward model. KL is in nats an answer, from the policy in use.

{chr(10).join(_chapter(row, told.stages.get(row.number, ())) for row in result.rounds)}
## Do the rounds still teach?

{result.saturation.sentence}
{"".join(f"{chr(10)}- {sign}" for sign in result.saturation.signs)}

## Why the gate asks for what it asks

{_thresholds()}

## What became of the schedule's due times

{chr(10).join(times)}

## Labels and time

{rankings} rankings to learn from and {judgements} blind judgements, in {whole / 60:.0f} minutes.

{_lines(steps)}
""",
        encoding="utf-8",
    )
    return path


def _chapter(row: RoundFigures, stages: Sequence[tuple[str, float]]) -> str:
    checks = [
        (
            check.words[0].upper() + check.words[1:],
            f"{'at least' if check.is_least else 'at most'} {gate.shown(check.limit, is_share=check.is_share)}",
            "not measured" if check.measured is None else gate.shown(check.measured, is_share=check.is_share),
            "met" if check.passed else "**not met**",
            check.source,
        )
        for check in row.checks
    ]
    heading = ("Threshold", "Asked for", "Measured", "", "Measured by")
    verdict = _lines([heading, ("---",) * 5, *checks]) if checks else "It has not come to its gate."
    seconds = " · ".join(f"{title.lower()} {value:.0f} s" for title, value in stages)
    return f"""## Round {row.number}: {row.candidate or "no candidate"} against {row.incumbent or "nobody"}

{outcome(row)}

- **Data**: {row.rankings} rankings, {row.new_rankings} of them new. New ones are of answers by {_sources(row.sources)}.
- **Blind**: {_blind(row)}
- **Next**: {_next(row)}
- **Stages**: {seconds or "none has ended."}

{verdict}
"""


def _sources(sources: Sequence[Source]) -> str:
    whole = sum(source.answers for source in sources)
    return (
        ", ".join(
            f"{source.policy or 'people'}{f' at temperature {source.temperature:g}' if source.temperature else ''} "
            f"({source.answers / whole:.0%})"
            for source in sources
        )
        or "nobody"
    )


def _blind(row: RoundFigures) -> str:
    if row.judged is None:
        return "nobody was asked."
    undecided = row.measured.low is not None and row.measured.high is not None and (
        row.measured.low <= 0.5 <= row.measured.high
    )  # fmt: skip
    verdict = "not decided" if undecided else "decided"
    return f"{verdict} after {row.judged} of the {row.to_judge} held-out prompts to which the two answers differ."


def _next(row: RoundFigures) -> str:
    if row.opened is None:
        return "no tasks were opened."
    return f"{row.opened} tasks opened with fresh answers, in the order that the reward model's heads ask for."


def _thresholds() -> str:
    """Return the table of reasons that the plan gives, as it stands there."""
    text = (weekly_plan.__doc__ or "").split("\n\n", 2)[2]
    rows: list[list[str]] = []
    for line in text.strip("\n").splitlines():
        name, _, reason = line.strip().partition("   ")
        if reason:
            rows.append([name, reason.strip()])
        else:
            rows[-1][1] += f" {name}"
    return "\n".join(f"- **{name.capitalize() if name.islower() else name}**: {reason}" for name, reason in rows)


def _cells(row: RoundFigures) -> tuple[str, ...]:
    measured = row.measured
    by_people = row.judged_by == "people, blind"
    word = "-" if row.passed is None else "promoted" if row.promoted else "passed" if row.passed else "not passed"
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
        word,
    )


def _share(value: float | None, low: float | None = None, high: float | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.0%}" if low is None or high is None else f"{value:.0%} [{100 * low:.0f}, {100 * high:.0f}]"


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _lines(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
