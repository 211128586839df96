"""Flags: a labeler says that something is wrong with a task; a reviewer closes the task or dismisses the flag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.errors import InvalidInputError, NotFoundError
from app.models import Flag, Prompt, Task, User
from app.services.accounts import audit
from app.services.labeling import assignments, judgements

REASONS = {
    "private": "It holds private data of a person",
    "dangerous": "It is illegal or dangerous",
    "broken": "The prompt or the answers are broken",
    "duplicate": "I have seen the same task before",
    "guidelines": "The guidelines do not cover it",
    "other": "Another reason",
}
MAX_NOTE = 2_000


@dataclass(frozen=True)
class FlagRow:
    """A flag as a reviewer sees it."""

    id: UUID
    task_id: UUID
    task_state: str
    messages: Sequence[dict[str, str]]
    reason: str
    note: str
    labeler: str
    created_at: datetime
    resolution: str | None
    resolved_by: str | None


def add(session: Session, assignment_id: UUID, user: User, reason: str, note: str) -> None:
    """Store a labeler's flag of their task; flagging it again replaces the reason. The task stays theirs."""
    if reason not in REASONS:
        raise InvalidInputError("Choose what is wrong with this task.")
    note = judgements.clean(note, "the note", MAX_NOTE)
    assignment = assignments.access_assignment(session, assignment_id, user)
    session.execute(
        upsert(Flag)
        .values(task_id=assignment.task_id, user_id=user.id, reason=reason, note=note)
        .on_conflict_do_update(
            index_elements=[Flag.task_id, Flag.user_id],
            index_where=Flag.resolved_at.is_(None),
            set_={"reason": reason, "note": note},
        )
    )


def resolve(session: Session, project_id: UUID, flag_id: UUID, reviewer: User, resolution: str) -> None:
    """Close the flagged task, so that nobody gets it any more, or dismiss the flag; a second click changes nothing."""
    if resolution not in ("closed", "dismissed"):
        raise InvalidInputError("A flag is settled by closing the task or by dismissing the flag.")
    flag = session.scalar(
        select(Flag).join(Task, Task.id == Flag.task_id).where(Flag.id == flag_id, Task.project_id == project_id)
    )
    if flag is None:
        raise NotFoundError("There is no such flag.")
    if resolution == "closed":
        session.execute(update(Task).where(Task.id == flag.task_id).values(state="closed"))
    settled = session.execute(
        update(Flag)
        .where(Flag.id == flag.id, Flag.resolved_at.is_(None))
        .values(resolution=resolution, resolved_by=reviewer.id, resolved_at=func.clock_timestamp())
        .returning(Flag.id)
    ).all()
    if settled:
        audit.record(session, reviewer, f"flag.{resolution}", "task", flag.task_id)


def listed(session: Session, project_id: UUID, limit: int = 200) -> list[FlagRow]:
    """Return the project's flags: the open ones first, oldest on top, then the settled ones, newest on top."""
    resolver = select(User.name).where(User.id == Flag.resolved_by).correlate(Flag).scalar_subquery()
    rows = session.execute(
        select(
            Flag.id,
            Flag.task_id,
            Task.state,
            Prompt.messages,
            Flag.reason,
            Flag.note,
            User.name,
            Flag.created_at,
            Flag.resolution,
            resolver,
        )
        .join(Task, Task.id == Flag.task_id)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .join(User, User.id == Flag.user_id)
        .where(Task.project_id == project_id)
        .order_by(Flag.resolved_at.desc().nulls_first(), Flag.created_at)
        .limit(limit)
    )
    found = [FlagRow(*row) for row in rows]
    return [replace(flag, reason=REASONS.get(flag.reason, flag.reason)) for flag in found]


def count_open(session: Session, project_id: UUID) -> int:
    """Return how many flags of the project wait for a reviewer."""
    query = select(func.count()).select_from(Flag).join(Task, Task.id == Flag.task_id)
    return session.scalar(query.where(Task.project_id == project_id, Flag.resolved_at.is_(None))) or 0
