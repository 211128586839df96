"""Changing tasks, one or a million at once: overlap, priority, closed or open again, each in one guarded UPDATE.

Whoever changes many tasks first locks the project's row (`projects.lock`), so that two such changes come one after the
other; a labeler's answer or lease is waited for and then seen, because the UPDATE looks at the newest row.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Update, func, select, text, update
from sqlalchemy.orm import Session

from app.errors import InvalidInputError, NotFoundError
from app.models import AuditEvent, Task, User
from app.services.projects import projects

CHANGED = "tasks.changed"
LOWEST_PRIORITY, HIGHEST_PRIORITY = -1000, 1000
MOST_TICKED = 200

Condition = list[ColumnElement[bool]]

# A project with a million tasks takes longer than a page may; submits wait for their row meanwhile and are sent again.
_PATIENCE = text("SET LOCAL statement_timeout = '60s'")


@dataclass(frozen=True)
class Outcome:
    """How many tasks a change reached; `kept_higher` have a higher overlap left, for their answers and leases."""

    changed: int = 0
    kept_higher: int = 0


@dataclass(frozen=True)
class Report:
    """What a change of tasks came to, as the page says it."""

    what: str
    changed: int
    kept_higher: int


@dataclass(frozen=True)
class Change:
    """What is to become of tasks: each part may be left as it is (None). `state` is closed or open."""

    priority: int | None = None
    overlap: int | None = None
    state: str | None = None


def ranking_tasks_in_use(project_id: UUID) -> Condition:
    """Return the condition of the ranking tasks that are open or drafts; gold and trial tasks are for everybody."""
    return [Task.project_id == project_id, Task.kind == "ranking"]


def set_overlap(session: Session, which: Condition, overlap: int) -> Outcome:
    """Raise or lower the overlap of the open and draft tasks among `which`, never below answers and leases in hand."""
    session.execute(_PATIENCE)
    changed = (
        update(Task)
        .where(*which, Task.purpose == "collect", Task.state != "closed", Task.target_overlap != overlap)
        .values(target_overlap=func.greatest(overlap, Task.open_leases + Task.done_count))
        .returning(Task.target_overlap)
        .cte("changed")
    )
    # Counted in the database: a million rows need not travel.
    is_higher = changed.c.target_overlap > overlap
    all_of_them, higher = session.execute(
        select(func.count(), func.count().filter(is_higher)).select_from(changed)
    ).one()
    return Outcome(all_of_them - higher, higher)


def set_priority(session: Session, which: Condition, priority: int) -> Outcome:
    """Set the priority of tasks that can still be handed out, once they are open; higher ones come first."""
    session.execute(_PATIENCE)
    changed = update(Task).where(*which, Task.state != "closed", Task.priority != priority).values(priority=priority)
    return _counted(session, changed)


def set_state(session: Session, which: Condition, state: str) -> Outcome:
    """Close tasks, so that nobody gets them any more, or open closed ones again; work in hand can still be sent.

    Drafts are opened together, once their answers are there; chats and edits were born answered and stay closed.
    """
    before = {"closed": ("open", "draft"), "open": ("closed",)}[state]
    session.execute(_PATIENCE)
    closable = Task.kind.in_(("ranking", "demonstration"))
    return _counted(session, update(Task).where(*which, closable, Task.state.in_(before)).values(state=state))


def apply(session: Session, project_id: UUID, user: User, which: Condition, change: Change) -> UUID:
    """Change the tasks of a project that meet the conditions, and return the id of the report."""
    if (change.priority, change.overlap, change.state) == (None, None, None):
        raise InvalidInputError("Say what to change: a priority, an overlap, close or reopen.")
    projects.lock(session, project_id)
    outcomes = []
    if change.state is not None:
        outcomes.append(set_state(session, which, change.state))
    if change.overlap is not None:
        outcomes.append(set_overlap(session, which, change.overlap))
    if change.priority is not None:
        outcomes.append(set_priority(session, which, change.priority))
    what = [
        f"priority {change.priority}" if change.priority is not None else "",
        f"overlap {change.overlap}" if change.overlap is not None else "",
        {"closed": "closed", "open": "open again", None: ""}[change.state],
    ]
    detail: dict[str, Any] = {
        "what": " and ".join(part for part in what if part),
        "changed": max(outcome.changed for outcome in outcomes),
        "kept_higher": sum(outcome.kept_higher for outcome in outcomes),
    }
    event = AuditEvent(
        actor_id=user.id, action=CHANGED, object_type="project", object_id=str(project_id), detail=detail
    )
    session.add(event)
    session.flush()
    return event.id


def ticked(project_id: UUID, task_ids: Collection[str]) -> Condition:
    """Return the condition of single tasks of a project; raise `InvalidInputError` when none or too many are named."""
    if not task_ids:
        raise InvalidInputError("Tick the tasks to change, or choose all that the filter shows.")
    if len(task_ids) > MOST_TICKED:
        raise InvalidInputError(f"At most {MOST_TICKED} tasks can be ticked; use the filter for more.")
    try:
        wanted = [UUID(task_id) for task_id in task_ids]
    except ValueError:
        raise InvalidInputError("The form names a task that does not exist. Reload the page.") from None
    return [Task.project_id == project_id, Task.id.in_(wanted)]


def lock(session: Session, which: Condition) -> None:
    """Lock the tasks, so that what is read of them now is what a change finds. Their project comes first."""
    project_ids = session.scalars(select(Task.project_id).where(*which).distinct()).all()
    for project_id in project_ids:
        projects.lock(session, project_id)
    session.execute(select(Task.id).where(*which).order_by(Task.id).with_for_update(key_share=True))


def priority_of(typed: str) -> int | None:
    """Return the priority that was typed, None for an empty field."""
    return _number(typed, "A priority", LOWEST_PRIORITY, HIGHEST_PRIORITY)


def overlap_of(typed: str) -> int | None:
    """Return the overlap that was typed, None for an empty field."""
    return _number(typed, "An overlap", 1, 16)


def _number(typed: str, what: str, lowest: int, highest: int) -> int | None:
    if not typed:
        return None
    try:
        number = int(typed)
    except ValueError:
        number = lowest - 1
    if not lowest <= number <= highest:
        raise InvalidInputError(f"{what} is a whole number from {lowest} to {highest}.")
    return number


def report(session: Session, project_id: UUID, report_id: UUID, action: str = CHANGED) -> Report:
    """Return what a change of this project's tasks, or of its settings, came to."""
    detail = session.scalar(
        select(AuditEvent.detail).where(
            AuditEvent.id == report_id, AuditEvent.action == action, AuditEvent.object_id == str(project_id)
        )
    )
    if detail is None:
        raise NotFoundError("There is no such change.")
    return Report(detail.get("what", ""), detail["changed"], detail["kept_higher"])


def _counted(session: Session, change: Update) -> Outcome:
    changed = change.returning(Task.id).cte("changed")
    return Outcome(session.scalar(select(func.count()).select_from(changed)) or 0)
