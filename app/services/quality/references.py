"""Tasks whose answer is known: gold tasks, mixed unseen into the work, and trial tasks for those who are new.

A reference is a ranking that a reviewer has given or confirmed. Agreement with it is counted by pairs of answers: one
point where labeler and reference say the same, half a point where one ties what the other prefers, none for opposites.
So a coin scores one half, and so does somebody who ties everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from typing import Literal
from uuid import UUID

from sqlalchemy import func, insert, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.errors import ConflictError, InvalidInputError, NotFoundError
from app.models import Assignment, Project, Prompt, Ranking, Task, TaskCompletion, User
from app.services.accounts import audit
from app.services.labeling import answered, standing
from app.services.projects import guidelines

Purpose = Literal["gold", "screening"]
Groups = Sequence[Sequence[str]]

NO_LIMIT = 1_000_000
"""How many labelers may answer a task that measures them."""

MOST_CANDIDATES = 8


@dataclass(frozen=True)
class Line:
    """A task with a known answer, as its list shows it."""

    task_id: UUID
    purpose: str
    state: str
    question: str
    answers: int
    created_at: datetime


@dataclass(frozen=True)
class Candidate:
    """A ranking task that could become one with a known answer."""

    task_id: UUID
    question: str
    rankings: int
    is_adjudicated: bool


def agreement(groups: Groups, reference: Groups) -> tuple[float, int]:
    """Return the points that a ranking gets for its agreement with the reference, and the number of pairs compared.

    Answers that a ranking does not name stand below all that it names, in no order; two of them are not compared.
    """
    given, expected = _rank_of(groups), _rank_of(reference)
    points, compared = 0.0, 0
    for first, second in combinations(sorted({*given, *expected}), 2):
        a, b = _order(given, first, second), _order(expected, first, second)
        if a is not None and b is not None:
            points += 1 - abs(a - b) / 2
            compared += 1
    return points, compared


def _rank_of(groups: Groups) -> dict[str, int]:
    return {completion: rank for rank, group in enumerate(groups) for completion in group}


def _order(rank_of: dict[str, int], first: str, second: str) -> int | None:
    if first not in rank_of and second not in rank_of:
        return None
    below = len(rank_of)
    a, b = rank_of.get(first, below), rank_of.get(second, below)
    return (a < b) - (a > b)


def create(session: Session, task_id: UUID, user: User, groups: Groups, purpose: Purpose) -> UUID:
    """Make a task with a known answer from a ranking task and return its id.

    A task that nobody has begun is turned into one itself. From a task with answers a copy is made, so that its
    rankings stay what they are; the task is closed then, and whoever has seen it does not get the copy.
    """
    task = session.scalar(select(Task).where(Task.id == task_id).with_for_update())
    if task is None or task.kind != "ranking":
        raise NotFoundError("There is no such ranking task.")
    if task.purpose != "collect":
        raise ConflictError("The answer of this task is known already, or it compares two policies.")
    completions = session.scalars(
        select(TaskCompletion.completion_id).where(TaskCompletion.task_id == task.id).order_by(TaskCompletion.position)
    ).all()
    reference = [sorted(group) for group in groups if group]
    named = [completion for group in reference for completion in group]
    if sorted(named) != sorted(map(str, completions)):
        raise InvalidInputError("A reference ranks every answer of its task once.")
    if len(reference) == 1:
        raise InvalidInputError("A reference in which all answers are tied measures nothing. Prefer one.")
    has_begun = session.scalar(select(func.count()).where(Assignment.task_id == task.id)) or 0
    values = {"purpose": purpose, "reference": reference, "state": "open", "target_overlap": NO_LIMIT}
    if has_begun:
        made = _copy(session, task, completions, values)
    else:
        session.execute(update(Task).where(Task.id == task.id).values(values))
        made = task.id
    _keep_from(session, made, user, completions)
    audit.record(session, user, f"{purpose}.created", "task", made)
    return made


def _copy(session: Session, task: Task, completions: Sequence[UUID], values: Mapping[str, object]) -> UUID:
    made = session.scalars(
        insert(Task)
        .values(
            project_id=task.project_id,
            prompt_id=task.prompt_id,
            kind="ranking",
            priority=task.priority,
            sort_key=task.sort_key,
            required_tags=task.required_tags,
            **values,
        )
        .returning(Task.id)
    ).one()
    session.execute(
        insert(TaskCompletion),
        [
            {"task_id": made, "completion_id": completion, "position": position}
            for position, completion in enumerate(completions)
        ],
    )
    # A released assignment is one that is never handed to its labeler again.
    session.execute(
        insert(Assignment).from_select(
            ["task_id", "user_id", "state", "shown_order", "guideline_version_id", "expires_at", "finished_at"],
            select(
                literal(made),
                Assignment.user_id,
                literal("released"),
                Assignment.shown_order,
                Assignment.guideline_version_id,
                func.clock_timestamp(),
                func.clock_timestamp(),
            ).where(Assignment.task_id == task.id),
        )
    )
    session.execute(update(Task).where(Task.id == task.id).values(state="closed"))
    return made


def _keep_from(session: Session, task_id: UUID, user: User, completions: Sequence[UUID]) -> None:
    """Let nobody be measured by their own answer: whoever gave the reference never gets the task."""
    task = session.get_one(Task, task_id)
    session.execute(
        upsert(Assignment)
        .values(
            task_id=task_id,
            user_id=user.id,
            state="released",
            shown_order=completions,
            guideline_version_id=guidelines.current(session, task.project_id).version_id,
            expires_at=func.clock_timestamp(),
            finished_at=func.clock_timestamp(),
        )
        .on_conflict_do_nothing(index_elements=[Assignment.task_id, Assignment.user_id])
    )


def change(session: Session, project: Project, user: User, task_id: UUID, *, purpose: Purpose, state: str) -> None:
    """Use a task with a known answer as a gold or a trial task, and hand it out (`open`) or no more (`closed`)."""
    if state not in ("open", "closed"):
        raise InvalidInputError("A task with a known answer is handed out, or it is closed.")
    changed = session.execute(
        update(Task)
        .where(Task.id == task_id, Task.project_id == project.id, Task.reference.is_not(None))
        .values(purpose=purpose, state=state)
        .returning(Task.id)
    ).all()
    if not changed:
        raise NotFoundError("There is no such task with a known answer in this project.")
    audit.record(session, user, "reference.changed", "task", task_id, purpose=purpose, state=state)


def listed(session: Session, project_id: UUID) -> list[Line]:
    """Return a project's tasks with known answers, the newest first."""
    counted = (
        select(func.count())
        .where(Ranking.task_id == Task.id, Ranking.counted, answered.is_latest(Ranking))
        .correlate(Task)
        .scalar_subquery()
    )
    rows = session.execute(
        select(Task.id, Task.purpose, Task.state, Prompt.messages, counted, Task.created_at)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .where(Task.project_id == project_id, Task.reference.is_not(None))
        .order_by(Task.id.desc())
    )
    return [
        Line(task_id, purpose, state, messages[-1]["content"], answers, created_at)
        for task_id, purpose, state, messages, answers, created_at in rows
    ]


def candidates(session: Session, project_id: UUID) -> list[Candidate]:
    """Return some ranking tasks that can be given a known answer: the adjudicated first, then the least begun."""
    is_adjudicated = standing.is_adjudicated(Task.id)
    rows = session.execute(
        select(Task.id, Prompt.messages, Task.done_count, is_adjudicated.label("is_adjudicated"))
        .join(Prompt, Prompt.id == Task.prompt_id)
        .where(
            Task.project_id == project_id,
            Task.kind == "ranking",
            Task.purpose == "collect",
            or_(is_adjudicated, Task.state != "closed"),
        )
        .order_by(is_adjudicated.desc(), Task.done_count + Task.open_leases, Task.sort_key, Task.id)
        .limit(MOST_CANDIDATES)
    )
    return [Candidate(task_id, messages[-1]["content"], count, settled) for task_id, messages, count, settled in rows]
