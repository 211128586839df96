"""The list of a project's tasks for its admins: filtered, the newest first, a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import func, literal, select
from sqlalchemy.orm import Session

from app.errors import InvalidInputError
from app.models import Prompt, Task
from app.services.labeling.task_changes import Condition
from app.services.projects import tags

PAGE_SIZE = 50
MANY = 100_000
"""Filtered tasks are counted up to here."""

STATES = ("draft", "open", "closed")
KINDS = ("ranking", "demonstration", "edit", "chat")
PURPOSES = ("collect", "gold", "screening", "evaluation")


@dataclass(frozen=True)
class Filter:
    """Which tasks to list; an empty part lets all through."""

    state: str = ""
    kind: str = ""
    purpose: str = ""
    tag: str = ""

    def __post_init__(self) -> None:
        for value, allowed in ((self.state, STATES), (self.kind, KINDS), (self.purpose, PURPOSES)):
            if value and value not in allowed:
                raise InvalidInputError(f"Tasks can be filtered by {', '.join(allowed)}, not by “{value[:40]}”.")
        if self.tag:
            tags.normal([self.tag])

    def condition(self, project_id: UUID) -> Condition:
        """Return the conditions on `Task` that this filter makes in a project."""
        wanted = [Task.project_id == project_id]
        if self.state:
            wanted.append(Task.state == self.state)
        if self.kind:
            wanted.append(Task.kind == self.kind)
        if self.purpose:
            wanted.append(Task.purpose == self.purpose)
        if self.tag:
            wanted.append(Task.required_tags.contains([self.tag]))
        return wanted


@dataclass(frozen=True)
class TaskRow:
    """A task as the list shows it."""

    id: UUID
    kind: str
    purpose: str
    state: str
    messages: Sequence[dict[str, Any]]
    tags: Sequence[str]
    priority: int
    target_overlap: int
    open_leases: int
    done_count: int


@dataclass(frozen=True)
class TaskPage:
    """One page of tasks. `total` is counted up to `MANY`; `older` and `newer` are ids to go on from, or None."""

    rows: Sequence[TaskRow]
    total: int
    older: UUID | None
    newer: UUID | None


def page(
    session: Session, project_id: UUID, wanted: Filter, *, before: UUID | None = None, after: UUID | None = None
) -> TaskPage:
    """Return the tasks made before the one named, or the page just after it; without either, the newest."""
    condition = wanted.condition(project_id)
    some = select(literal(1)).where(*condition).limit(MANY).subquery()
    total = session.scalar(select(func.count()).select_from(some)) or 0
    query = (
        select(
            Task.id,
            Task.kind,
            Task.purpose,
            Task.state,
            Prompt.messages,
            Task.required_tags,
            Task.priority,
            Task.target_overlap,
            Task.open_leases,
            Task.done_count,
        )
        .join(Prompt, Prompt.id == Task.prompt_id)
        .where(*condition)
        .limit(PAGE_SIZE + 1)
    )
    if after is not None:
        found = [TaskRow(*row) for row in session.execute(query.where(Task.id > after).order_by(Task.id))]
        rows, more = found[:PAGE_SIZE][::-1], len(found) > PAGE_SIZE
        return TaskPage(rows, total, rows[-1].id if rows else None, rows[0].id if more else None)
    if before is not None:
        query = query.where(Task.id < before)
    found = [TaskRow(*row) for row in session.execute(query.order_by(Task.id.desc()))]
    rows = found[:PAGE_SIZE]
    older = rows[-1].id if len(found) > PAGE_SIZE else None
    return TaskPage(rows, total, older, rows[0].id if before is not None and rows else None)


def tags_in_use(session: Session, project_id: UUID) -> list[str]:
    """Return the tags that prompts of the project carry, at most a few hundred, for the filter to offer."""
    tag = func.unnest(Prompt.tags)
    query = select(tag).where(Prompt.project_id == project_id, Prompt.tags != []).distinct().limit(200)
    return sorted(session.scalars(query))
