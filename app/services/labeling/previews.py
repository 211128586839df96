"""What a quarantine would take out of the next snapshot: the quarantine itself is tried, counted and rolled back.

So the preview cannot disagree with the snapshot: both count with the very same condition.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.models import Demonstration, Project, Ranking, Task, User
from app.services.labeling import standing
from app.services.quality import quarantines
from app.services.quality.quarantines import NewQuarantine


@dataclass(frozen=True)
class Held:
    """What the next snapshot would hold."""

    rankings: int
    demonstrations: int


@dataclass(frozen=True)
class Preview:
    """What the next snapshot would hold before and after a quarantine."""

    before: Held
    after: Held

    @property
    def rankings_out(self) -> int:
        """How many rankings fewer; negative where an adjudication goes and the labelers' own come back."""
        return self.before.rankings - self.after.rankings

    @property
    def demonstrations_out(self) -> int:
        """How many demonstrations fewer."""
        return self.before.demonstrations - self.after.demonstrations


def held(session: Session, project_id: UUID) -> Held:
    """Return how much a snapshot of the project would hold now."""
    rankings = session.scalar(
        select(func.count())
        .select_from(Ranking)
        .join(Task, Task.id == Ranking.task_id)
        .where(Ranking.project_id == project_id, *standing.rankings())
    )
    demonstrations = session.scalar(
        select(func.count())
        .select_from(Demonstration)
        .where(Demonstration.project_id == project_id, *standing.demonstrations())
    )
    return Held(rankings or 0, demonstrations or 0)


def of_quarantine(session: Session, project: Project, user: User, new: NewQuarantine) -> Preview:
    """Return what a quarantine would change, and change nothing. Raises what creating it would raise."""
    before = held(session, project.id)
    attempt = session.begin_nested()
    try:
        quarantines.create(session, project, user, new)
        after = held(session, project.id)
    finally:
        attempt.rollback()
    return Preview(before, after)
