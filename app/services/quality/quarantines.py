"""Quarantines: a labeler's work, or everyone's, of a time range, left out of snapshots until it is lifted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, exists, func, or_, select, union, update
from sqlalchemy.orm import Session, aliased

from app.errors import InvalidInputError, NotFoundError
from app.models import Demonstration, Project, Quarantine, Ranking, User
from app.services.accounts import audit

MAX_REASON = 500


@dataclass(frozen=True)
class NewQuarantine:
    """What is to be set aside: whose work (None: everyone's), from when to when (None: no limit), and why."""

    user_id: UUID | None
    starts_at: datetime | None
    ends_at: datetime | None
    reason: str


@dataclass(frozen=True)
class Line:
    """A quarantine as its list shows it; `labeler` is None where it is everyone's work."""

    id: UUID
    labeler: str | None
    starts_at: datetime | None
    ends_at: datetime | None
    reason: str
    author: str
    created_at: datetime
    lifted_at: datetime | None


def is_set_aside(table: Any) -> ColumnElement[bool]:
    """Return the condition that a row of `Ranking` or `Demonstration` (or an alias) is under a quarantine that holds.

    Snapshots and previews use this one.
    """
    return exists().where(
        Quarantine.project_id == table.project_id,
        Quarantine.lifted_at.is_(None),
        or_(Quarantine.user_id.is_(None), Quarantine.user_id == table.user_id),
        or_(Quarantine.starts_at.is_(None), Quarantine.starts_at <= table.created_at),
        or_(Quarantine.ends_at.is_(None), Quarantine.ends_at > table.created_at),
    )


def create(session: Session, project: Project, user: User, new: NewQuarantine) -> UUID:
    """Set work aside from now on; it takes effect with the next snapshot. Raises `InvalidInputError`."""
    reason = " ".join(new.reason.split())
    if not 1 <= len(reason) <= MAX_REASON or not reason.isprintable():
        raise InvalidInputError(f"Say why in at most {MAX_REASON} plain characters; whoever looks later will ask.")
    if new.user_id is None and new.starts_at is None and new.ends_at is None:
        raise InvalidInputError("Choose a labeler or a time range: a quarantine of everything would leave nothing.")
    if new.starts_at is not None and new.ends_at is not None and new.starts_at >= new.ends_at:
        raise InvalidInputError("The time range ends before it begins.")
    if new.user_id is not None and not is_known(session, project.id, new.user_id):
        raise InvalidInputError("This account has no answers in this project.")
    quarantine = Quarantine(
        project_id=project.id,
        user_id=new.user_id,
        starts_at=new.starts_at,
        ends_at=new.ends_at,
        reason=reason,
        created_by=user.id,
    )
    session.add(quarantine)
    session.flush()
    audit.record(session, user, "quarantine.created", "quarantine", quarantine.id)
    return quarantine.id


def lift(session: Session, project: Project, user: User, quarantine_id: UUID) -> None:
    """End a quarantine: what it set aside is part of the next snapshot again. Once more changes nothing."""
    found = session.scalar(
        select(Quarantine.id).where(Quarantine.id == quarantine_id, Quarantine.project_id == project.id)
    )
    if found is None:
        raise NotFoundError("There is no such quarantine.")
    lifted = session.execute(
        update(Quarantine)
        .where(Quarantine.id == quarantine_id, Quarantine.lifted_at.is_(None))
        .values(lifted_by=user.id, lifted_at=func.clock_timestamp())
        .returning(Quarantine.id)
    ).all()
    if lifted:
        audit.record(session, user, "quarantine.lifted", "quarantine", quarantine_id)


def listed(session: Session, project_id: UUID) -> list[Line]:
    """Return a project's quarantines: those that hold first, the newest first."""
    author, labeler = aliased(User), aliased(User)
    rows = session.execute(
        select(
            Quarantine.id,
            labeler.name,
            Quarantine.starts_at,
            Quarantine.ends_at,
            Quarantine.reason,
            author.name,
            Quarantine.created_at,
            Quarantine.lifted_at,
        )
        .join(author, author.id == Quarantine.created_by)
        .outerjoin(labeler, labeler.id == Quarantine.user_id)
        .where(Quarantine.project_id == project_id)
        .order_by(Quarantine.lifted_at.is_not(None), Quarantine.created_at.desc())
    )
    return [Line(*row) for row in rows]


def is_known(session: Session, project_id: UUID, user_id: UUID) -> bool:
    """Return whether somebody has ever answered anything in the project."""
    found = (
        exists().where(table.project_id == project_id, table.user_id == user_id) for table in (Ranking, Demonstration)
    )
    return bool(session.scalar(select(or_(*found))))


def people(session: Session, project_id: UUID) -> list[tuple[UUID, str]]:
    """Return everybody who has answered anything in the project, by name."""
    ids = union(*(select(table.user_id).where(table.project_id == project_id) for table in (Ranking, Demonstration)))
    rows = session.execute(select(User.id, User.name).where(User.id.in_(ids)).order_by(User.name, User.id))
    return [(user_id, name) for user_id, name in rows]
