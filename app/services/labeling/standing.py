"""Which answers stand: the one condition by which snapshots, previews and queues tell what counts."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from app.models import Demonstration, Ranking, Task
from app.services.labeling import answered
from app.services.quality import quarantines


def rankings(purpose: Literal["collect", "evaluation"] = "collect") -> list[ColumnElement[bool]]:
    """Return the conditions on `Ranking` joined with `Task` that a snapshot's comparisons meet.

    Counted, the labeler's last word, not under quarantine, and no measurement (gold, trial and blind tasks). Where a
    reviewer has adjudicated a task, that ranking stands for the task instead of the labelers' own. A blind evaluation
    goes by the same conditions for its own tasks.
    """
    return [
        Ranking.counted.is_(True),
        answered.is_latest(Ranking),
        Task.purpose == purpose,
        ~quarantines.is_set_aside(Ranking),
        or_(Ranking.origin == "adjudication", ~is_adjudicated(Ranking.task_id)),
    ]


def demonstrations() -> list[ColumnElement[bool]]:
    """Return the conditions on `Demonstration` that a snapshot's demonstrations meet."""
    return [
        Demonstration.counted.is_(True),
        answered.is_latest(Demonstration),
        ~quarantines.is_set_aside(Demonstration),
    ]


def is_adjudicated(task_id: Any) -> ColumnElement[bool]:
    """Return the condition that an adjudication of the task in this column stands."""
    verdict, later = aliased(Ranking), aliased(Ranking)
    return exists().where(
        verdict.task_id == task_id,
        verdict.origin == "adjudication",
        verdict.counted,
        ~exists().where(later.supersedes == verdict.id),
        ~quarantines.is_set_aside(verdict),
    )


def adjudicated(session: Session, project_id: UUID) -> dict[str, int]:
    """Return how many rankings of a snapshot are adjudications, and how many of labelers they stand for."""
    everything = select(func.count()).select_from(Ranking).join(Task, Task.id == Ranking.task_id)
    verdicts = everything.where(Ranking.project_id == project_id, *rankings(), Ranking.origin == "adjudication")
    replaced = everything.where(
        Ranking.project_id == project_id,
        Ranking.counted,
        answered.is_latest(Ranking),
        Task.purpose == "collect",
        ~quarantines.is_set_aside(Ranking),
        Ranking.origin != "adjudication",
        is_adjudicated(Ranking.task_id),
    )
    return {"comparisons": session.scalar(verdicts) or 0, "rankings_replaced": session.scalar(replaced) or 0}
