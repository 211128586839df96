"""Demonstrations: the ideal answer to a prompt, written by a labeler; stored once, changed only by further rows."""

from __future__ import annotations

import hashlib
from uuid import UUID

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from app.errors import ConflictError, InvalidInputError
from app.models import Assignment, Demonstration, User
from app.services.labeling import answered, assignments, drafts, judgements
from app.services.labeling.judgements import Fields
from app.services.labeling.rankings import NOTHING, UNDO_GRACE, UNDO_SECONDS, Stored
from app.services.projects import guidelines

MAX_CHARACTERS = judgements.MAX_EDIT


def clean(text: str) -> str:
    """Return the text as it is stored: browsers' line ends become plain ones, white space at the end goes.

    Raises `InvalidInputError` when nothing is left, it is too long, or it holds a character Postgres cannot keep.
    """
    body = judgements.clean(text, "the answer", MAX_CHARACTERS)
    if not body:
        raise InvalidInputError("Write an answer before you submit; it is empty.")
    return body


def submit(session: Session, assignment_id: UUID, user: User, submit_id: UUID, fields: Fields) -> Stored:
    """Store a labeler's answer to an assignment, or find it again when the same submit comes a second time.

    `fields` hold `text`, and for a change of an earlier answer the number of the guidelines it was made under. Raises
    `InvalidInputError` for other fields, `ConflictError` when another answer was stored under this submit, or the form
    belongs to another task or to an answer that has been changed since.
    """
    assignment = assignments.lock_assignment(session, assignment_id, user, "demonstration")
    if set(fields) - {guidelines.FIELD} != {"text"}:
        raise InvalidInputError("The form does not hold exactly one answer. Reload the page and send it again.")
    body = clean(fields["text"])
    digest = hashlib.sha256(body.encode()).hexdigest()
    earlier = session.scalars(
        select(Demonstration).where(Demonstration.assignment_id == assignment.id).order_by(Demonstration.id)
    ).all()
    before = earlier[-1] if earlier else None
    replayed = next((answer for answer in earlier if answer.submit_id == submit_id), None)
    if replayed is not None:
        if replayed.body_sha256 != digest:
            raise ConflictError("Your first answer to this task is saved; a different one was sent and not stored.")
        return Stored(assignment, is_replay=True, not_counted_reason=replayed.not_counted_reason)
    if submit_id != expected_submit_id(assignment, before):
        raise ConflictError("This form does not belong to the task it was sent for. Reload the page and write again.")
    reason = assignments.settle(session, assignment, before)
    session.execute(
        insert(Demonstration).values(
            submit_id=submit_id,
            body_sha256=digest,
            project_id=assignment.task.project_id,
            task_id=assignment.task_id,
            assignment_id=assignment.id,
            user_id=user.id,
            guideline_version_id=guidelines.for_answer(session, assignment, before, fields).version_id,
            text=body,
            is_simulated=user.is_simulated,
            counted=reason is None,
            not_counted_reason=reason,
            seconds=func.extract("epoch", func.clock_timestamp() - (assignment.shown_at or assignment.started_at)),
            supersedes=before.id if before else None,
        )
    )
    drafts.discard(session, assignment.id)
    return Stored(assignment, is_replay=False, not_counted_reason=reason)


def undo(session: Session, assignment_id: UUID, user: User) -> Assignment:
    """Take an answer back within some seconds, and lease the task again with its text filled in; twice is once.

    Raises `ConflictError` when there is no answer, or it is too old: then it can still be changed.
    """
    assignment = assignments.lock_assignment(session, assignment_id, user, "demonstration")
    stored = latest(session, assignment.id)
    if stored is None:
        raise ConflictError(NOTHING)
    if stored.retracts:
        return assignment
    answered.check_undo_in_time(session, stored, UNDO_SECONDS + UNDO_GRACE)
    answered.retract(session, stored)
    assignments.reopen(session, assignment, was_counted=stored.counted)
    drafts.save(session, assignment.id, {"text": stored.text})
    return assignment


def latest(session: Session, assignment_id: UUID) -> Demonstration | None:
    """Return the answer of an assignment that nothing supersedes, which may be one that takes back; or None."""
    return session.scalar(
        select(Demonstration).where(Demonstration.assignment_id == assignment_id, answered.is_latest(Demonstration))
    )


def expected_submit_id(assignment: Assignment, before: Demonstration | None) -> UUID:
    """Return the id that the next form of this assignment has to carry."""
    return assignment.submit_id if before is None else answered.next_submit_id(before.id)
