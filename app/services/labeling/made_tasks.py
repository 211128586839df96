"""A single ranking task, made by an admin from answers that are there already."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from app.errors import InvalidInputError, NotFoundError
from app.models import Completion, Project, Prompt, Task, TaskCompletion, User
from app.services.accounts import audit
from app.services.projects import projects

FEWEST, MOST = 2, 9


def make(
    session: Session,
    project: Project,
    user: User,
    completion_ids: Sequence[UUID],
    *,
    overlap: int | None,
    priority: int,
    opened: bool,
) -> UUID:
    """Make a ranking task of answers to one prompt of the project, and return its id.

    Raises `NotFoundError` for an answer of another project, `InvalidInputError` for answers that cannot be ranked
    together: of several prompts, the same text twice, too few or too many.
    """
    if not FEWEST <= len(set(completion_ids)) == len(completion_ids) <= MOST:
        raise InvalidInputError(f"A task has {FEWEST} to {MOST} different answers.")
    projects.lock(session, project.id)  # it gives the task its place
    found = session.execute(
        select(Completion.id, Completion.text, Prompt.id.label("prompt_id"), Prompt.tags)
        .join(Prompt, Prompt.id == Completion.prompt_id)
        .where(Completion.id.in_(completion_ids), Prompt.project_id == project.id)
    ).all()
    if len(found) != len(completion_ids):
        raise NotFoundError("This project has no such answer.")
    if len({row.prompt_id for row in found}) > 1:
        raise InvalidInputError("The answers belong to several prompts; a task ranks answers to one.")
    if len({row.text.strip() for row in found}) < len(found):
        raise InvalidInputError("Two of the answers have the same text; nobody should rank those.")
    last = session.scalar(select(func.max(Task.sort_key)).where(Task.project_id == project.id))
    task = Task(
        project_id=project.id,
        prompt_id=found[0].prompt_id,
        kind="ranking",
        state="open" if opened else "draft",
        sort_key=0 if last is None else last + 1,
        target_overlap=project.overlap if overlap is None else overlap,
        priority=priority,
        required_tags=found[0].tags,
    )
    session.add(task)
    session.flush()
    session.execute(
        insert(TaskCompletion),
        [
            {"task_id": task.id, "completion_id": completion_id, "position": position}
            for position, completion_id in enumerate(completion_ids)
        ],
    )
    audit.record(session, user, "task.made", "task", task.id)
    return task.id
