"""Rankings: a labeler's judgement of one task, stored once as given and never changed.

Whoever thinks again sends a new one, which supersedes the old; an undo is a row that takes it back. Each form carries a
submit id: the assignment's own for the first answer, and one made from the answer before it for every later one. So
a second send finds the first, and of two tabs that change the same answer one is told so.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from app.errors import ConflictError
from app.models import Assignment, Ranking, User
from app.services.labeling import answered, assignments, drafts, edits, judgements
from app.services.labeling.judgements import Fields, Judgement
from app.services.projects import guidelines
from app.services.quality import trials

UNDO_SECONDS = 20
"""How long after an answer the page offers to take it back."""

UNDO_GRACE = 10
"""Seconds more in which the server still takes an undo, for a click at the last moment over a slow line."""

NOTHING = "There is nothing to take back here."


@dataclass(frozen=True)
class Stored:
    """What became of an answer: stored just now or found again, and whether it counts (else the reason).

    `trial` says how the labeler's trial went (`active`, `rejected`) when this answer was its last.
    """

    assignment: Assignment
    is_replay: bool
    not_counted_reason: str | None
    trial: str | None = None


def submit(session: Session, assignment_id: UUID, user: User, submit_id: UUID, fields: Fields) -> Stored:
    """Store a labeler's judgement of an assignment, or find it again when the same submit comes a second time.

    `fields` are the board's, see `app.services.labeling.judgements`; a change of an earlier answer also names the
    number of the guidelines it was made under. An answer that comes too late is stored and not counted. Raises
    `InvalidInputError` for fields that make no judgement, and `ConflictError` when another judgement was stored under
    this submit, or the form belongs to another task or to an answer that has been changed since.
    """
    assignment = assignments.lock_assignment(session, assignment_id, user, "ranking")
    earlier = session.scalars(select(Ranking).where(Ranking.assignment_id == assignment.id).order_by(Ranking.id)).all()
    before = earlier[-1] if earlier else None
    replayed = next((ranking for ranking in earlier if ranking.submit_id == submit_id), None)
    version = guidelines.for_answer(session, assignment, replayed or before, fields)
    board = {name: value for name, value in fields.items() if name != guidelines.FIELD}
    judgement = judgements.judge(board, assignment.shown_order, version.questions)
    if replayed is not None:
        if replayed.body_sha256 != judgement.sha256():
            raise ConflictError("Your first ranking of this task is saved; a different one was sent and not stored.")
        return Stored(assignment, is_replay=True, not_counted_reason=replayed.not_counted_reason)
    if submit_id != expected_submit_id(assignment, before):
        raise ConflictError("This form does not belong to the task it was sent for. Reload the page and rank again.")
    reason = assignments.settle(session, assignment, before)
    ranking = _store(session, assignment, user, submit_id, judgement, version.version_id, before, reason)
    edits.follow(session, assignment, user, ranking, judgement.edits)
    trial = trials.follow(session, assignment.task, user)
    drafts.discard(session, assignment.id)
    return Stored(assignment, is_replay=False, not_counted_reason=reason, trial=trial)


def undo(session: Session, assignment_id: UUID, user: User) -> Assignment:
    """Take an answer back within some seconds, and lease the task again with what was filled in; twice is once.

    Raises `ConflictError` when there is no answer, or it is too old: then it can still be changed.
    """
    assignment = assignments.lock_assignment(session, assignment_id, user, "ranking")
    stored = latest(session, assignment.id)
    if stored is None:
        raise ConflictError(NOTHING)
    if stored.retracts:
        return assignment
    if stored.origin != "task":
        raise ConflictError("This was settled as a reviewer. Give another ranking there to change it.")
    answered.check_undo_in_time(session, stored, UNDO_SECONDS + UNDO_GRACE)
    answered.retract(session, stored)
    edits.take_back(session, assignment, user)
    assignments.reopen(session, assignment, was_counted=stored.counted)
    drafts.save(session, assignment.id, judgements.as_fields(stored, assignment.shown_order))
    return assignment


def latest(session: Session, assignment_id: UUID) -> Ranking | None:
    """Return the ranking of an assignment that nothing supersedes, which may be one that takes back; or None."""
    return session.scalar(select(Ranking).where(Ranking.assignment_id == assignment_id, answered.is_latest(Ranking)))


def expected_submit_id(assignment: Assignment, before: Ranking | None) -> UUID:
    """Return the id that the next form of this assignment has to carry."""
    return assignment.submit_id if before is None else answered.next_submit_id(before.id)


def stored_fields(session: Session, assignment: Assignment) -> dict[str, str]:
    """Return an assignment's stored ranking as form fields; empty when there is none, or it was taken back."""
    stored = latest(session, assignment.id)
    return judgements.as_fields(stored, assignment.shown_order) if stored and not stored.retracts else {}


def _store(
    session: Session,
    assignment: Assignment,
    user: User,
    submit_id: UUID,
    judgement: Judgement,
    guideline_version_id: UUID,
    before: Ranking | None,
    reason: str | None,
) -> Ranking:
    return session.scalars(
        insert(Ranking)
        .values(
            submit_id=submit_id,
            body_sha256=judgement.sha256(),
            project_id=assignment.task.project_id,
            task_id=assignment.task_id,
            assignment_id=assignment.id,
            user_id=user.id,
            guideline_version_id=guideline_version_id,
            groups=judgement.groups,
            strengths=judgement.strengths,
            acceptable=judgement.acceptable,
            judgements=judgement.answers,
            reason=judgement.reason,
            shown_order=assignment.shown_order,
            is_simulated=user.is_simulated,
            counted=reason is None,
            not_counted_reason=reason,
            seconds=func.extract("epoch", func.clock_timestamp() - (assignment.shown_at or assignment.started_at)),
            supersedes=before.id if before else None,
            origin=before.origin if before else "task",
        )
        .returning(Ranking)
    ).one()
