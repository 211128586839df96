"""A quality report in words and bars: what its figures mean, for the page of a project's quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import Prompt, Task, User

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Bar:
    """A figure with its interval, on a scale from 0 to 100 as it is drawn, and in words."""

    value: float
    low: float
    high: float
    text: str
    interval: str
    count: int


@dataclass(frozen=True)
class Figure:
    """One of the project's figures and what it means."""

    name: str
    bar: Bar | None
    meaning: str
    verdict: str = ""


@dataclass(frozen=True)
class LabelerLine:
    """What is known of one labeler. `notes` say only what there is evidence for."""

    user_id: UUID
    name: str
    is_simulated: bool
    rankings: int
    reliability: Bar | None
    gold: Bar | None
    with_others: Bar | None
    earlier: Bar | None
    longer: Bar | None
    seconds: str
    pace: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class GoldLine:
    """How labelers did on a task whose answer is known."""

    answers: int
    agreement: Bar | None
    is_suspect: bool


def figures(body: Json) -> list[Figure]:
    """Return the project's figures."""
    found = body["agreement"]
    alpha, tau = found["alpha_ordinal"], found["tau_b"]
    return [
        Figure(
            "Pair agreement",
            percent(found["pairs"]),
            "How often two labelers say the same of two answers. A tie against a preference counts half.",
            "",
        ),
        Figure(
            "Both prefer one",
            percent(found["strict"]),
            "The same, without the pairs that either of the two ties.",
            "InstructGPT reports 73 % among its own labelers." if found["strict"] else "",
        ),
        Figure(
            "With reviewers",
            percent(body["with_reviewers"]),
            "How often labelers say the same as a reviewer of the same task.",
        ),
        Figure(
            "Krippendorff's alpha",
            plain(alpha),
            "Agreement beyond chance: 0 is what coins would reach, 1 is perfect.",
            _alpha_verdict(alpha["value"]) if alpha else "",
        ),
        Figure(
            "Kendall's tau-b",
            plain(tau),
            "How alike two whole rankings are: 1 is the same order, 0 unrelated, -1 upside down.",
        ),
    ]


def _alpha_verdict(value: float) -> str:
    """Return what Krippendorff's customary limits (2004) say; preferences seldom reach them."""
    if value >= 0.8:
        return "Reliable by Krippendorff's limit of 0.8."
    if value >= 0.667:
        return "Enough for tentative conclusions (0.667)."
    return "Preferences seldom reach the customary 0.667; several labelers a task average it out."


def labelers(session: Session, body: Json) -> list[LabelerLine]:
    """Return a line for every labeler of the report, those with notes first, then by their rankings."""
    entries = {UUID(entry["user"]): entry for entry in body["labelers"]}
    people = session.execute(select(User.id, User.name, User.is_simulated).where(User.id.in_(entries)))
    lines = [_line(user_id, name, is_simulated, entries[user_id]) for user_id, name, is_simulated in people]
    return sorted(lines, key=lambda line: (not line.notes, -line.rankings, line.name))


def _line(user_id: UUID, name: str, is_simulated: bool, entry: Json) -> LabelerLine:
    pace = entry["pace"]
    return LabelerLine(
        user_id=user_id,
        name=name,
        is_simulated=is_simulated,
        rankings=entry["rankings"],
        reliability=percent(entry["reliability"]),
        gold=percent(entry["gold"]),
        with_others=percent(entry["with_others"]),
        earlier=percent(entry["position"]["share"]) if entry["position"] else None,
        longer=percent(entry["length"]["share"]) if entry["length"] else None,
        seconds=_seconds(pace["seconds"]["value"]) if pace else "",
        pace=f"{pace['ratio']:.2g} times the project's" if pace and pace["ratio"] is not None else "",
        notes=tuple(_note(flag, entry) for flag in entry["flags"]),
    )


def _note(flag: str, entry: Json) -> str:
    match flag:
        case "reversed":
            return "Prefers the worse answer more often than the better one, as if the ranks were read upside down."
        case "chance":
            return "Agrees with the others hardly more than a coin would."
        case "position":
            share = entry["position"]["share"]["value"]
            which = "earlier" if share > 0.5 else "later"
            return f"Prefers the answer shown {which} in {max(share, 1 - share):.0%} of pairs; the order is random."
        case "length":
            share, expected = entry["length"]["share"]["value"], entry["length"]["expected"]
            return f"Prefers the longer answer in {share:.0%} of pairs; the others do in {expected:.0%}."
    share = entry["pace"]["hasty"]["share"]["value"]
    return f"{share:.0%} of the rankings were faster than anybody can read."


def gold(body: Json) -> dict[UUID, GoldLine]:
    """Return how labelers did on each task with a known answer, by its id."""
    return {
        UUID(entry["task"]): GoldLine(entry["answers"], percent(entry["agreement"]), entry["suspect"])
        for entry in body["gold"]
    }


def questions(session: Session, task_ids: list[UUID]) -> dict[UUID, str]:
    """Return the last message of each task's prompt."""
    rows = session.execute(
        select(Task.id, Prompt.messages).join(Prompt, Prompt.id == Task.prompt_id).where(Task.id.in_(task_ids))
    )
    return {task_id: messages[-1]["content"] for task_id, messages in rows}


def percent(found: Json | None) -> Bar | None:
    """Return a share as a bar: 72.6 % (70 to 75)."""
    if found is None:
        return None
    value, low, high = (100 * _known(found, name) for name in ("value", "low", "high"))
    return Bar(value, low, high, f"{value:.0f} %", f"{low:.0f} to {high:.0f} %", found["count"])


def plain(found: Json | None) -> Bar | None:
    """Return a figure between -1 and 1 as a bar, whose left end is 0."""
    if found is None:
        return None
    value, low, high = (_known(found, name) for name in ("value", "low", "high"))
    return Bar(
        *_drawn(value, low, high), text=f"{value:.2f}", interval=f"{low:.2f} to {high:.2f}", count=found["count"]
    )


def _drawn(*numbers: float) -> tuple[float, float, float]:
    value, low, high = (max(0.0, 100 * number) for number in numbers)
    return value, low, high


def _known(found: Json, name: str) -> float:
    """Return a number, or where an interval could not be said, the figure itself."""
    number = found[name]
    return float(found["value"] if number is None else number)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
