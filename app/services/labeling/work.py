"""What a labeler sees of one task: the conversation, the answers in their own order, blind, and their progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, union_all
from sqlalchemy.orm import Session

from app.errors import ConflictError
from app.models import Assignment, Completion, Demonstration, Ranking, User
from app.services.labeling import (
    answered,
    assignments,
    demonstrations,
    drafts,
    edits,
    flags,
    judgements,
    progress,
    rankings,
)
from app.services.labeling.judgements import Fields
from app.services.labeling.progress import MyProgress
from app.services.projects import guidelines, projects
from app.services.projects.guidelines import Guideline, Unread


@dataclass(frozen=True)
class ShownAnswer:
    """An answer as a labeler sees it: a letter and a text, never where it comes from."""

    letter: str
    text: str


@dataclass(frozen=True)
class Notice:
    """What became of the task before this one, in the tone `good` or `wait`.

    `undo` is the assignment whose answer can still be taken back, for `undo_seconds` from now.
    """

    text: str = ""
    tone: str = "good"
    undo: UUID | None = None
    undo_seconds: int = rankings.UNDO_SECONDS


@dataclass(frozen=True)
class Aside:
    """What stands beside a task's title and is new with every answer: the context of `labeling/_shown.html`."""

    project_name: str
    progress: MyProgress
    waiting: int
    notice: Notice


@dataclass(frozen=True)
class OpenTask:
    """Everything the page of an assignment shows.

    `fields` are the form's as filled in: stored, drafted, or sent and refused. `is_open` says that the form can be
    sent; `is_changing` that it changes an answer which is stored already. `waiting` counts the tasks of this kind that
    this labeler could still take after this one, up to `progress.MANY`.
    """

    assignment_id: UUID
    submit_id: UUID
    kind: str
    state: str
    is_open: bool
    is_changing: bool
    may_change: bool
    expires_at: datetime
    project_id: UUID
    project_name: str
    messages: Sequence[Mapping[str, Any]]
    answers: tuple[ShownAnswer, ...]
    fields: Fields
    guidelines: Guideline
    unread: Unread | None
    progress: MyProgress
    waiting: int
    skip_reasons: Mapping[str, str]
    flag_reasons: Mapping[str, str]
    max_characters: int
    error: str | None
    notice: Notice


def open_task(
    session: Session,
    assignment_id: UUID,
    user: User,
    *,
    filled: Fields | None = None,
    changing: bool = False,
    error: str | None = None,
    notice: Notice | None = None,
) -> OpenTask:
    """Return the labeler's own task, filled in with what was stored or drafted or, after a refusal, with `filled`.

    `changing` opens the form of an answered task again. Raises `NotFoundError` for an assignment that is not theirs,
    and `ConflictError` when the task is no work of its own, such as a turn of a chat. Writes nothing.
    """
    assignment = assignments.access_assignment(session, assignment_id, user)
    task = assignment.task
    if task.kind not in ("ranking", "demonstration"):
        raise ConflictError("This was answered where it was made; there is no form for it here.")
    project = projects.get(session, task.project_id)
    is_ranking = task.kind == "ranking"
    stored = (rankings if is_ranking else demonstrations).latest(session, assignment.id)
    may_change = assignment.state == "done" and project.state != "archived"
    is_changing = changing and may_change
    if filled is None:
        filled = _stored_fields(session, assignment, user, stored) if assignment.state == "done" else {}
    mine = progress.mine(session, project.id, user, today_only=True)
    return OpenTask(
        assignment_id=assignment.id,
        submit_id=_submit_id(assignment, stored),
        kind=task.kind,
        state=assignment.state,
        is_open=assignment.state != "done" or is_changing,
        is_changing=is_changing,
        may_change=may_change,
        expires_at=assignment.expires_at,
        project_id=project.id,
        project_name=project.name,
        messages=task.prompt.messages,
        answers=_shown(session, assignment),
        fields=filled or drafts.of(session, assignment.id),
        guidelines=_guidelines(session, assignment, stored, is_changing=is_changing),
        unread=guidelines.unread(session, project.id, user),
        progress=mine,
        waiting=mine.rankings_waiting if is_ranking else mine.demonstrations_waiting,
        skip_reasons=assignments.SKIP_REASONS,
        flag_reasons=flags.REASONS,
        max_characters=demonstrations.MAX_CHARACTERS,
        error=error,
        notice=notice or Notice(),
    )


def aside(session: Session, assignment_id: UUID, user: User, notice: Notice) -> Aside:
    """Return what changes beside a task that the labeler's page has fetched ahead; see `OpenTask` for the rest."""
    task = assignments.access_assignment(session, assignment_id, user).task
    project = projects.get(session, task.project_id)
    mine = progress.mine(session, project.id, user)
    waiting = mine.rankings_waiting if task.kind == "ranking" else mine.demonstrations_waiting
    return Aside(project.name, mine, waiting, notice)


def offer_undo(session: Session, assignment_id: UUID | None, user: User) -> Notice:
    """Return the offer to take back the answer that a page was redirected from, or an empty notice.

    It is empty when there is no such answer of this labeler's, or it is older than the offer lasts.
    """
    if assignment_id is None:
        return Notice()
    latest = (
        select(table.created_at, table.retracts).where(
            table.assignment_id == assignment_id, table.user_id == user.id, answered.is_latest(table)
        )
        for table in (Ranking, Demonstration)
    )
    stored = union_all(*latest).subquery()
    age = func.extract("epoch", func.clock_timestamp() - stored.c.created_at)
    seconds = session.scalar(select(age).where(~stored.c.retracts))
    if seconds is None or seconds >= rankings.UNDO_SECONDS:
        return Notice()
    return Notice(undo=assignment_id, undo_seconds=rankings.UNDO_SECONDS - int(seconds))


def _stored_fields(
    session: Session, assignment: Assignment, user: User, stored: Ranking | Demonstration | None
) -> dict[str, str]:
    if stored is None or stored.retracts:
        return {}
    if isinstance(stored, Demonstration):
        return {"text": stored.text}
    improved = edits.texts(session, assignment, user)
    shown = zip(judgements.LETTERS, assignment.shown_order, strict=False)
    return {
        **judgements.as_fields(stored, assignment.shown_order),
        **{f"edit_{letter}": improved[completion] for letter, completion in shown if completion in improved},
    }


def _submit_id(assignment: Assignment, stored: Ranking | Demonstration | None) -> UUID:
    return assignment.submit_id if stored is None else answered.next_submit_id(stored.id)


def _guidelines(
    session: Session, assignment: Assignment, stored: Ranking | Demonstration | None, *, is_changing: bool
) -> Guideline:
    """Return what applies here: to a change the newest guidelines, else those of the answer or of the lease."""
    if is_changing:
        return guidelines.current(session, assignment.task.project_id)
    return guidelines.get(session, stored.guideline_version_id if stored else assignment.guideline_version_id)


def _shown(session: Session, assignment: Assignment) -> tuple[ShownAnswer, ...]:
    rows = session.execute(select(Completion.id, Completion.text).where(Completion.id.in_(assignment.shown_order)))
    texts = {row.id: row.text for row in rows}
    return tuple(
        ShownAnswer(letter, texts[completion_id])
        for letter, completion_id in zip(judgements.LETTERS, assignment.shown_order, strict=False)
    )
