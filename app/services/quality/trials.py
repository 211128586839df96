"""Trials: whoever is new to a screening project first ranks tasks whose answer is known, and is let in by agreement."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from app.models import Assignment, Project, Ranking, Task, User
from app.services.labeling import answered
from app.services.projects import memberships
from app.services.quality import references


@dataclass(frozen=True)
class Trial:
    """How far somebody's trial is: `done` of `needed` tasks."""

    done: int
    needed: int


def of(session: Session, project: Project, user: User) -> Trial | None:
    """Return how far a labeler's trial is; None when they are not on trial here."""
    if not project.screening_tasks:  # most projects: no question to the database
        return None
    if memberships.standing_of(session, project, user) != "screening":
        return None
    return _trial(session, project, user)


def _trial(session: Session, project: Project, user: User) -> Trial:
    done = len(_rankings(session, project.id, user.id))
    skipped = exists().where(
        Assignment.task_id == Task.id, Assignment.user_id == user.id, Assignment.state.in_(("skipped", "released"))
    )
    there = session.scalar(
        select(func.count()).where(
            Task.project_id == project.id, Task.purpose == "screening", Task.state == "open", ~skipped
        )
    )
    return Trial(done, max(done, min(project.screening_tasks, there or 0)))


def follow(session: Session, task: Task, user: User) -> str | None:
    """After an answer to a trial task: conclude the trial if it was the last, and return how it went."""
    if task.purpose != "screening":
        return None
    project = session.get_one(Project, task.project_id)
    if memberships.standing_of(session, project, user) != "screening":
        return None
    trial = _trial(session, project, user)
    if trial.done < max(1, trial.needed):
        return None
    scores = [references.agreement(groups, reference) for groups, reference in _rankings(session, project.id, user.id)]
    compared = sum(pairs for _, pairs in scores)
    score = sum(points for points, _ in scores) / compared if compared else 0.0
    return memberships.conclude_trial(session, project, user.id, score)


def _rankings(session: Session, project_id: UUID, user_id: UUID) -> list[tuple[references.Groups, references.Groups]]:
    rows = session.execute(
        select(Ranking.groups, Task.reference)
        .join(Task, Task.id == Ranking.task_id)
        .where(
            Ranking.project_id == project_id,
            Ranking.user_id == user_id,
            Ranking.counted,
            answered.is_latest(Ranking),
            Task.purpose == "screening",
        )
    )
    return [(groups, reference or []) for groups, reference in rows]
