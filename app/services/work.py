"""What a labeler sees of one task: the conversation, the answers in their own order, blind, and their progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import Assignment, Completion, User
from app.services import assignments, demonstrations, progress, projects, rankings
from app.services.progress import MyProgress
from app.services.projects import Guideline


@dataclass(frozen=True)
class ShownAnswer:
    """An answer as a labeler sees it: a letter and a text, never where it comes from. `rank` is as filled in."""

    letter: str
    text: str
    rank: int | None


@dataclass(frozen=True)
class OpenTask:
    """Everything the page of an assignment shows. `text` is a demonstration as filled in.

    `notice` says what became of the task before this one, in the tone `good` or `wait`.
    `waiting` counts the tasks of this kind that this labeler could still take after this one, up to `progress.MANY`.
    """

    assignment_id: UUID
    submit_id: UUID
    kind: str
    state: str
    expires_at: datetime
    project_id: UUID
    project_name: str
    messages: Sequence[Mapping[str, Any]]
    answers: tuple[ShownAnswer, ...]
    text: str
    guidelines: Guideline
    progress: MyProgress
    waiting: int
    skip_reasons: Mapping[str, str]
    max_characters: int
    error: str | None
    notice: str
    notice_tone: str


def open_task(
    session: Session,
    assignment_id: UUID,
    user: User,
    *,
    filled_ranks: Mapping[str, int] | None = None,
    filled_text: str | None = None,
    error: str | None = None,
    notice: str = "",
    notice_tone: str = "good",
) -> OpenTask:
    """Return the labeler's own task, filled in with what was stored or, after a refusal, with what they had entered.

    Raises `NotFoundError` for an assignment that is not theirs. Writes nothing.
    """
    assignment = assignments.access_assignment(session, assignment_id, user)
    task = assignment.task
    project = projects.get(session, task.project_id)
    is_ranking = task.kind == "ranking"
    if filled_ranks is None:
        filled_ranks = rankings.stored_ranks(session, assignment) if is_ranking else {}
    if filled_text is None:
        filled_text = "" if is_ranking else demonstrations.stored_text(session, assignment) or ""
    mine = progress.mine(session, project.id, user)
    return OpenTask(
        assignment_id=assignment.id,
        submit_id=assignment.submit_id,
        kind=task.kind,
        state=assignment.state,
        expires_at=assignment.expires_at,
        project_id=project.id,
        project_name=project.name,
        messages=task.prompt.messages,
        answers=_shown(session, assignment, filled_ranks),
        text=filled_text,
        guidelines=projects.guideline(session, assignment.guideline_version_id),
        progress=mine,
        waiting=mine.rankings_waiting if is_ranking else mine.demonstrations_waiting,
        skip_reasons=assignments.SKIP_REASONS,
        max_characters=demonstrations.MAX_CHARACTERS,
        error=error,
        notice=notice,
        notice_tone=notice_tone,
    )


def _shown(session: Session, assignment: Assignment, ranks: Mapping[str, int]) -> tuple[ShownAnswer, ...]:
    rows = session.execute(select(Completion.id, Completion.text).where(Completion.id.in_(assignment.shown_order)))
    texts = {row.id: row.text for row in rows}
    return tuple(
        ShownAnswer(letter, texts[completion_id], ranks.get(letter))
        for letter, completion_id in zip(rankings.LETTERS, assignment.shown_order, strict=False)
    )
