"""A labeler's own answers and figures: what they have sent, under which guidelines, and how their days went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, literal, select, union_all
from sqlalchemy.orm import Session, aliased

from app.models import Assignment, Demonstration, GuidelineVersion, Prompt, Ranking, Task, User
from app.services.labeling.answered import last_words
from app.services.quality import references

PAGE_SIZE = 30
DAYS = 14
REMEMBERED = 500
"""Answers that the median time and the agreement with reviewers look back on."""

FEWEST_PAIRS = 5


@dataclass(frozen=True)
class MyAnswer:
    """One answer as its labeler finds it again. `may_change` is false for what was answered elsewhere, like a chat."""

    id: UUID
    assignment_id: UUID
    kind: str
    messages: Sequence[dict[str, Any]]
    version: int
    not_counted_reason: str | None
    is_changed: bool
    may_change: bool
    created_at: datetime


@dataclass(frozen=True)
class MyAnswers:
    """One page of answers, the newest first; `older` is what the next page goes on from, None at the end."""

    rows: Sequence[MyAnswer]
    older: UUID | None


@dataclass(frozen=True)
class MyNumbers:
    """A labeler's own figures in a project. `days` are (day in UTC, answers), the last of them today.

    `agreement` with reviewers is the share of pairs ordered alike, over `compared` pairs; None while they are too few.
    """

    days: Sequence[tuple[date, int]]
    median_seconds: float | None
    skipped: int
    agreement: float | None
    compared: int

    @property
    def busiest(self) -> int:
        """The most answers of one of the days."""
        return max(count for _, count in self.days)


def page(
    session: Session, project_id: UUID, user: User, *, version: int | None = None, before: UUID | None = None
) -> MyAnswers:
    """Return answers that stand, sent before the one named, made under one version of the guidelines or any."""
    parts = []
    for table in (Ranking, Demonstration):
        part = _standing(table, project_id, user).order_by(table.id.desc()).limit(PAGE_SIZE + 1)
        if version is not None:
            part = part.where(GuidelineVersion.version == version)
        if before is not None:
            part = part.where(table.id < before)
        parts.append(select(part.subquery()))
    both = union_all(*parts).subquery()
    rows = session.execute(
        select(
            both.c.id,
            both.c.assignment_id,
            Task.kind,
            Prompt.messages,
            both.c.version,
            both.c.not_counted_reason,
            both.c.is_changed,
            Task.kind.in_(("ranking", "demonstration")),
            both.c.created_at,
        )
        .join(Task, Task.id == both.c.task_id)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .order_by(both.c.id.desc())
        .limit(PAGE_SIZE + 1)
    )
    found = [MyAnswer(*row) for row in rows]
    return MyAnswers(found[:PAGE_SIZE], found[PAGE_SIZE - 1].id if len(found) > PAGE_SIZE else None)


def by_version(session: Session, project_id: UUID, user: User) -> dict[int, int]:
    """Return how many answers that stand the labeler gave under each version of the guidelines, the newest first."""
    both = union_all(*(_standing(table, project_id, user) for table in (Ranking, Demonstration))).subquery()
    rows = session.execute(
        select(both.c.version, func.count()).group_by(both.c.version).order_by(both.c.version.desc())
    )
    return {row[0]: row[1] for row in rows}


def numbers(session: Session, project_id: UUID, user: User) -> MyNumbers:
    """Return a labeler's own figures in a project."""
    agreement, compared = _agreement(session, project_id, user)
    return MyNumbers(
        days=_days(session, project_id, user),
        median_seconds=_median_seconds(session, project_id, user),
        skipped=session.scalar(
            select(func.count())
            .select_from(Assignment)
            .join(Task)
            .where(Task.project_id == project_id, Assignment.user_id == user.id, Assignment.state == "skipped")
        )
        or 0,
        agreement=agreement,
        compared=compared,
    )


def _standing(table: type[Ranking] | type[Demonstration], project_id: UUID, user: User) -> Select[*tuple[Any, ...]]:
    """Select the labeler's answers that stand, as their last word on a task."""
    return (
        select(
            table.id,
            table.assignment_id,
            table.task_id,
            GuidelineVersion.version,
            table.not_counted_reason,
            (table.supersedes.is_not(None)).label("is_changed"),
            table.created_at,
        )
        .join(GuidelineVersion, GuidelineVersion.id == table.guideline_version_id)
        .where(table.user_id == user.id, table.project_id == project_id, *last_words(table))
    )


def _days(session: Session, project_id: UUID, user: User) -> list[tuple[date, int]]:
    today = session.execute(select(func.date_trunc("day", func.clock_timestamp()))).scalar_one().date()
    first = today - timedelta(days=DAYS - 1)
    both = union_all(
        *(
            select(table.created_at).where(
                table.user_id == user.id,
                table.project_id == project_id,
                table.created_at >= func.date_trunc("day", func.clock_timestamp()) - timedelta(days=DAYS - 1),
                *last_words(table),
            )
            for table in (Ranking, Demonstration)
        )
    ).subquery()
    day = func.date_trunc("day", both.c.created_at).label("day")
    counts = {row[0].date(): int(row[1]) for row in session.execute(select(day, func.count()).group_by(day))}
    return [(first + timedelta(days=step), counts.get(first + timedelta(days=step), 0)) for step in range(DAYS)]


def _median_seconds(session: Session, project_id: UUID, user: User) -> float | None:
    recent = (
        select(Ranking.seconds)
        .where(
            Ranking.user_id == user.id,
            Ranking.project_id == project_id,
            Ranking.origin == "task",
            Ranking.supersedes.is_(None),
        )
        .order_by(Ranking.id.desc())
        .limit(REMEMBERED)
        .subquery()
    )
    median: float | None = session.scalar(select(func.percentile_cont(0.5).within_group(recent.c.seconds)))
    return median


def _agreement(session: Session, project_id: UUID, user: User) -> tuple[float | None, int]:
    """Compare the labeler's rankings with what reviewers said of the same tasks, pair by pair."""
    theirs, later = aliased(Ranking), aliased(Ranking)
    rows = session.execute(
        select(Ranking.groups, theirs.groups)
        .join(theirs, theirs.task_id == Ranking.task_id)
        .where(
            Ranking.user_id == user.id,
            Ranking.project_id == project_id,
            *last_words(Ranking),
            theirs.origin == "adjudication",
            theirs.counted,
            theirs.user_id != user.id,
            ~select(literal(1)).where(later.supersedes == theirs.id).exists(),
        )
        .order_by(Ranking.id.desc())
        .limit(REMEMBERED)
    )
    points, compared = 0.0, 0
    for mine, reviewed in rows:
        of_task, pairs = references.agreement(mine, reviewed)
        points, compared = points + of_task, compared + pairs
    return (points / compared if compared >= FEWEST_PAIRS else None), compared
