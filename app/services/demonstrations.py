"""Demonstrations: the ideal answer to a prompt, written by a labeler; stored once and never changed."""

from __future__ import annotations

import hashlib
from uuid import UUID

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from app.errors import ConflictError, InvalidInputError
from app.models import Assignment, Demonstration, User
from app.services import assignments
from app.services.rankings import Stored

MAX_CHARACTERS = 20_000


def clean(text: str) -> str:
    """Return the text as it is stored: browsers' line ends become plain ones, white space at the end goes.

    Raises `InvalidInputError` when nothing is left, it is too long, or it holds a character Postgres cannot keep.
    """
    body = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    if not body:
        raise InvalidInputError("Write an answer before you submit; it is empty.")
    if len(body) > MAX_CHARACTERS:
        raise InvalidInputError(
            f"Shorten the answer: it has {len(body):,} characters, and at most {MAX_CHARACTERS:,} can be stored."
        )
    if "\x00" in body:
        raise InvalidInputError("Remove the NUL character from the answer; it cannot be stored.")
    return body


def submit(session: Session, assignment_id: UUID, user: User, submit_id: UUID, text: str) -> Stored:
    """Store a labeler's answer to an assignment, or find it again when the same submit comes a second time.

    Raises `ConflictError` when another answer was stored under this submit, or the form belongs to another task.
    """
    assignment = assignments.lock_assignment(session, assignment_id, user, "demonstration")
    body = clean(text)
    digest = hashlib.sha256(body.encode()).hexdigest()
    if assignment.submit_id != submit_id:
        raise ConflictError("This form does not belong to the task it was sent for. Reload the page and write again.")
    stored = session.scalar(select(Demonstration).where(Demonstration.submit_id == submit_id))
    if stored is not None:
        if stored.body_sha256 != digest:
            raise ConflictError("Your first answer to this task is saved; a different one was sent and not stored.")
        return Stored(assignment, is_replay=True, not_counted_reason=stored.not_counted_reason)
    reason = assignments.settle(session, assignment)
    session.execute(
        insert(Demonstration).values(
            submit_id=submit_id,
            body_sha256=digest,
            project_id=assignment.task.project_id,
            task_id=assignment.task_id,
            assignment_id=assignment.id,
            user_id=user.id,
            guideline_version_id=assignment.guideline_version_id,
            text=body,
            is_simulated=user.is_simulated,
            counted=reason is None,
            not_counted_reason=reason,
            seconds=func.extract("epoch", func.clock_timestamp() - assignment.started_at),
        )
    )
    return Stored(assignment, is_replay=False, not_counted_reason=reason)


def stored_text(session: Session, assignment: Assignment) -> str | None:
    """Return the stored answer of an assignment, or None when there is none yet."""
    return session.scalar(select(Demonstration.text).where(Demonstration.submit_id == assignment.submit_id))
