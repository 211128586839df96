"""Quality reports as rows: asked for by a reviewer or by the clock, computed by a worker, read by the pages.

The row is the job. A message only says that one waits; the workers' tick rings again for what is still waiting.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import delete, exists, func, literal_column, null, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session, aliased

from app.db import after_commit
from app.models import Project, QualityReport, Ranking, User
from app.queue import DEFAULT_QUEUE, ring

TASK = "plackett.quality"
EVERY = timedelta(minutes=10)
"""How old a report must be before new rankings alone ask for another one."""
KEPT = timedelta(days=90)


@dataclass(frozen=True)
class Report:
    """A project's newest report, if there is one, and whether another is on its way."""

    newest: QualityReport | None
    is_waiting: bool

    @property
    def body(self) -> dict[str, Any] | None:
        """The figures, where there are any."""
        return self.newest.body if self.newest else None


def report(session: Session, project_id: UUID) -> Report:
    """Return the newest computed report of a project."""
    newest = session.scalar(
        select(QualityReport)
        .where(QualityReport.project_id == project_id, QualityReport.computed_at.is_not(None))
        .order_by(QualityReport.computed_at.desc())
        .limit(1)
    )
    is_waiting = exists().where(QualityReport.project_id == project_id, QualityReport.computed_at.is_(None))
    return Report(newest, bool(session.scalar(select(is_waiting))))


def request(session: Session, project: Project, user: User) -> None:
    """Ask for a report of the project as it is now; one that waits already is enough."""
    session.execute(upsert(QualityReport).values(project_id=project.id, requested_by=user.id).on_conflict_do_nothing())
    after_commit(session, lambda: ring(TASK, DEFAULT_QUEUE))


def request_due(session: Session) -> bool:
    """Ask for a report of every project with rankings newer than its last one; return whether any report waits."""
    last = select(func.max(QualityReport.computed_at)).where(QualityReport.project_id == Project.id)
    newest = func.coalesce(last.correlate(Project).scalar_subquery(), literal_column("timestamptz '-infinity'"))
    other = aliased(QualityReport)
    due = select(Project.id).where(
        newest < func.clock_timestamp() - EVERY,
        exists().where(Ranking.project_id == Project.id, Ranking.created_at > newest),
        ~exists().where(other.project_id == Project.id, other.computed_at.is_(None)),
    )
    session.execute(
        upsert(QualityReport)
        .from_select(["project_id"], due)
        .on_conflict_do_nothing()
        .execution_options(synchronize_session=False)
    )
    return bool(session.scalar(select(exists().where(QualityReport.computed_at.is_(None)))))


def waiting(session: Session) -> QualityReport | None:
    """Return the report that waits longest. Two workers that compute the same one do no harm: the first is stored."""
    return session.scalar(
        select(QualityReport).where(QualityReport.computed_at.is_(None)).order_by(QualityReport.requested_at).limit(1)
    )


def store(
    session: Session, report_id: UUID, moment: datetime, body: dict[str, Any] | None, problem: str | None = None
) -> None:
    """Store what a waiting report has come to; `moment` is when the database was as the report shows it."""
    session.execute(
        update(QualityReport)
        .where(QualityReport.id == report_id, QualityReport.computed_at.is_(None))
        .values(body=null() if body is None else body, problem=problem, computed_at=moment)
    )


def forget_old(session: Session) -> None:
    """Delete reports that are old and not the newest of their project."""
    newer = aliased(QualityReport)
    session.execute(
        delete(QualityReport).where(
            QualityReport.computed_at < func.clock_timestamp() - KEPT,
            exists().where(newer.project_id == QualityReport.project_id, newer.computed_at > QualityReport.computed_at),
        )
    )
