"""Who works now: the leases of a project that are open, and taking one back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.errors import NotFoundError
from app.models import Assignment, Prompt, Task, User
from app.services.labeling import assignments

MOST_SHOWN = 200


@dataclass(frozen=True)
class Lease:
    """A task in somebody's hands. `is_ahead`: taken ahead by the page and not looked at yet."""

    assignment_id: UUID
    labeler: str
    is_simulated: bool
    kind: str
    messages: Sequence[dict[str, Any]]
    since: datetime
    until: datetime
    is_ahead: bool
    is_over: bool


def listed(session: Session, project_id: UUID) -> list[Lease]:
    """Return the open leases of a project, those that end first on top; an ended one goes at the next tick."""
    rows = session.execute(
        select(
            Assignment.id,
            User.name,
            User.is_simulated,
            Task.kind,
            Prompt.messages,
            Assignment.started_at,
            Assignment.expires_at,
            Assignment.shown_at.is_(None),
            Assignment.expires_at <= func.clock_timestamp(),
        )
        .join(Task, Task.id == Assignment.task_id)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .join(User, User.id == Assignment.user_id)
        .where(Task.project_id == project_id, Assignment.state == "leased")
        .order_by(Assignment.expires_at, Assignment.id)
        .limit(MOST_SHOWN)
    )
    return [Lease(*row) for row in rows]


def count_open(session: Session, project_id: UUID) -> int:
    """Return how many leases of the project are open."""
    query = select(func.count()).select_from(Assignment).join(Task, Task.id == Assignment.task_id)
    return session.scalar(query.where(Task.project_id == project_id, Assignment.state == "leased")) or 0


def release(session: Session, project_id: UUID, assignment_id: UUID, admin: User) -> None:
    """Take a lease of this project from its labeler; one that has ended meanwhile is left as it is."""
    known = session.scalar(
        select(Assignment.id)
        .join(Task, Task.id == Assignment.task_id)
        .where(Assignment.id == assignment_id, Task.project_id == project_id)
    )
    if known is None:
        raise NotFoundError("There is no such lease in this project.")
    assignments.release(session, assignment_id, admin)
