"""Edits: an answer improved by a labeler is a comparison (edited over original) and a demonstration in one step.

Nobody sees the edited text as an answer of the task; it belongs to a task of its own that was born answered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from uuid import UUID, uuid5

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from app.models import Assignment, Completion, Demonstration, Ranking, Task, TaskCompletion, User
from app.services.labeling import answered
from app.services.labeling.judgements import Judgement

NOT_THE_TASKS = "It belongs to a ranking that does not count."
MEASURES = "It was made on a task that serves to measure, which gives no training data."


def follow(session: Session, assignment: Assignment, user: User, ranking: Ranking, wanted: Mapping[str, str]) -> None:
    """Bring the stored edits of an assignment's answers in line with those of its newest ranking.

    `wanted` holds improved texts by the id of the answer. A text that is there already stays, another one replaces
    it, one that is gone is taken back, and one that equals its original is no edit.
    """
    if not wanted and ranking.supersedes is None:
        return
    originals = {
        str(row.id): row.text
        for row in session.execute(
            select(Completion.id, Completion.text).where(Completion.id.in_(assignment.shown_order))
        )
    }
    changed = {parent: text for parent, text in wanted.items() if text != originals[parent].strip()}
    kept = set()
    for original, edited, edit in _standing(session, assignment, user):
        if changed.get(str(original)) == edited:
            kept.add(str(original))
        else:
            _take_back(session, edit)
    for parent, text in changed.items():
        if parent not in kept:
            _store(session, assignment, user, ranking, UUID(parent), text)


def take_back(session: Session, assignment: Assignment, user: User) -> None:
    """Take back every edit that the labeler made of this assignment's answers."""
    for _, _, edit in _standing(session, assignment, user):
        _take_back(session, edit)


def texts(session: Session, assignment: Assignment, user: User) -> dict[UUID, str]:
    """Return the labeler's edits of an assignment's answers, by the id of the answer."""
    return {parent: text for parent, text, _ in _standing(session, assignment, user)}


def _standing(session: Session, assignment: Assignment, user: User) -> list[tuple[UUID, str, Ranking]]:
    """Return (original's id, edited text, ranking) of the edits that have not been taken back."""
    rows = session.execute(
        select(Completion.parent_id, Completion.text, Ranking)
        .join(TaskCompletion, TaskCompletion.completion_id == Completion.id)
        .join(Ranking, Ranking.task_id == TaskCompletion.task_id)
        .where(
            Completion.parent_id.in_(assignment.shown_order),
            Completion.created_by == user.id,
            Ranking.user_id == user.id,
            Ranking.origin == "edit",
            ~Ranking.retracts,
            answered.is_latest(Ranking),
        )
        .order_by(Ranking.id)
    )
    return [(parent, text, ranking) for parent, text, ranking in rows if parent is not None]


def _store(session: Session, assignment: Assignment, user: User, ranking: Ranking, parent: UUID, text: str) -> None:
    edited = session.scalars(
        insert(Completion)
        .values(prompt_id=assignment.task.prompt_id, text=text, source="edit", parent_id=parent, created_by=user.id)
        .returning(Completion.id)
    ).one()
    reason = NOT_THE_TASKS if not ranking.counted else MEASURES if assignment.task.purpose != "collect" else None
    # The hand-out order of the original board says nothing here: nobody chose between the two.
    edit = answered.record(
        session,
        user,
        kind="edit",
        project_id=ranking.project_id,
        prompt_id=assignment.task.prompt_id,
        shown_order=[parent, edited],
        judgement=Judgement([[str(edited)], [str(parent)]]),
        submit_id=uuid5(ranking.submit_id, f"edit {parent}"),
        guideline_version_id=ranking.guideline_version_id,
        seconds=ranking.seconds,
        not_counted_reason=reason,
    )
    session.execute(
        insert(Demonstration).values(
            submit_id=edit.submit_id,
            body_sha256=hashlib.sha256(text.encode()).hexdigest(),
            project_id=edit.project_id,
            task_id=edit.task_id,
            assignment_id=edit.assignment_id,
            user_id=user.id,
            guideline_version_id=edit.guideline_version_id,
            completion_id=edited,
            text=text,
            is_simulated=user.is_simulated,
            counted=edit.counted,
            not_counted_reason=reason,
            seconds=edit.seconds,
        )
    )


def _take_back(session: Session, edit: Ranking) -> None:
    answered.retract(session, edit)
    written = session.scalars(
        select(Demonstration).where(
            Demonstration.task_id == edit.task_id, ~Demonstration.retracts, answered.is_latest(Demonstration)
        )
    )
    for demonstration in written.all():
        answered.retract(session, demonstration)
    session.execute(update(Task).where(Task.id == edit.task_id).values(done_count=0))
