"""Drafts: what a labeler has filled in so far, kept on the server while they work, gone when the answer is stored."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import delete, exists, func, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.errors import InvalidInputError
from app.models import Assignment, Draft, User
from app.services.labeling.assignments import access_assignment

MAX_FIELDS, MAX_CHARACTERS = 400, 250_000


def keep(session: Session, assignment_id: UUID, user: User, fields: Mapping[str, str]) -> bool:
    """Store what the labeler has filled in; return False, and store nothing, once the task is answered.

    Raises `NotFoundError` for another's assignment and `InvalidInputError` for more than a form can hold.
    """
    if len(fields) > MAX_FIELDS or sum(map(len, fields.values())) > MAX_CHARACTERS:
        raise InvalidInputError("This is more than a draft can hold. Shorten the texts.")
    assignment = access_assignment(session, assignment_id, user)
    if assignment.state == "done":
        return False
    save(session, assignment.id, {name: value.replace("\x00", "") for name, value in fields.items() if value})
    return True


def save(session: Session, assignment_id: UUID, fields: Mapping[str, str]) -> None:
    """Store a draft over the one before it, unless the answer has been stored in the meantime."""
    values = {"fields": dict(fields), "saved_at": func.clock_timestamp()}
    session.execute(
        upsert(Draft)
        .values(assignment_id=assignment_id, **values)
        .on_conflict_do_update(index_elements=[Draft.assignment_id], set_=values)
    )


def of(session: Session, assignment_id: UUID) -> dict[str, str]:
    """Return the draft of an assignment as form fields; empty when there is none."""
    return session.scalar(select(Draft.fields).where(Draft.assignment_id == assignment_id)) or {}


def discard(session: Session, assignment_id: UUID) -> None:
    """Delete the draft of an assignment."""
    session.execute(delete(Draft).where(Draft.assignment_id == assignment_id))


def discard_answered(session: Session) -> int:
    """Delete drafts that arrived together with their answer, and return how many. The workers' tick calls it."""
    done = exists().where(Assignment.id == Draft.assignment_id, Assignment.state == "done")
    return len(session.execute(delete(Draft).where(done).returning(Draft.assignment_id)).all())
