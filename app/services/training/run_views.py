"""What pages show of runs: lists, the page of one, and its metrics, of long runs as many as a curve can show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, or_, select
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.orm import Session

from app.errors import NotFoundError
from app.models import ModelVersion, Project, Run, RunEvent, RunMetric, Snapshot, Worker
from app.services.training import costs

MOST_METRICS = 480
"""About so many lines of metrics are read for a page, however long the run."""
LATEST_METRICS = 50
HELD_OUT = array(["held_out_loss", "held_out_accuracy", "held_out_margin"])


@dataclass(frozen=True)
class RunPage:
    """Everything the page of a run shows besides the run itself."""

    project: Project
    model: ModelVersion | None
    snapshot: Snapshot | None
    result: ModelVersion | None
    events: Sequence[RunEvent]
    metrics: Sequence[RunMetric]
    devices: str
    gpu_hours: float
    now: datetime


def listed(session: Session, project_id: UUID | None = None, limit: int = 200) -> list[tuple[Run, str]]:
    """Return the newest runs with their projects' names, of one project or of all."""
    query = select(Run, Project.name).join(Project, Project.id == Run.project_id)
    if project_id is not None:
        query = query.where(Run.project_id == project_id)
    rows = session.execute(query.order_by(Run.created_at.desc(), Run.id.desc()).limit(limit))
    return [(run, name) for run, name in rows]


def page_of(session: Session, run: Run) -> RunPage:
    """Return what the page of a run shows besides the run itself."""
    return RunPage(
        project=session.get_one(Project, run.project_id),
        model=session.get(ModelVersion, run.parent_model_id) if run.parent_model_id else None,
        snapshot=session.get(Snapshot, run.snapshot_id) if run.snapshot_id else None,
        result=session.scalar(select(ModelVersion).where(ModelVersion.run_id == run.id)),
        events=session.scalars(select(RunEvent).where(RunEvent.run_id == run.id).order_by(RunEvent.id)).all(),
        metrics=metrics_of(session, run.id),
        devices=session.scalar(select(Worker.devices).where(Worker.id == run.lease_owner)) or "",
        gpu_hours=costs.hours_of(session, [run.id]).get(run.id, 0.0),
        now=session.execute(select(func.clock_timestamp())).scalar_one(),
    )


def metrics_of(session: Session, run_id: UUID, most: int = MOST_METRICS) -> Sequence[RunMetric]:
    """Return the run's metrics in step order; of a long run evenly chosen ones, the latest, and all held-out ones."""
    newest_first = func.row_number().over(order_by=RunMetric.step.desc())
    numbered = (
        select(
            RunMetric.step,
            (newest_first - 1).label("age"),
            func.count().over().label("total"),
            RunMetric.values.op("?|")(HELD_OUT).label("is_rare"),
        )
        .where(RunMetric.run_id == run_id)
        .subquery()
    )
    chosen = select(numbered.c.step).where(
        or_(
            numbered.c.age % (numbered.c.total // most + 1) == 0,
            numbered.c.age < LATEST_METRICS,
            numbered.c.is_rare,
        )
    )
    return session.scalars(
        select(RunMetric).where(RunMetric.run_id == run_id, RunMetric.step.in_(chosen)).order_by(RunMetric.step)
    ).all()


def comparable(session: Session, run: Run, limit: int = 24) -> Sequence[Run]:
    """Return other runs of the project that have written metrics: those of the same method first, then the newest."""
    return session.scalars(
        select(Run)
        .where(Run.project_id == run.project_id, Run.id != run.id, Run.progress_step.is_not(None))
        .order_by((Run.method == run.method).desc(), Run.created_at.desc(), Run.id.desc())
        .limit(limit)
    ).all()


def of_project(session: Session, project_id: UUID, run_ids: Sequence[UUID]) -> list[Run]:
    """Return these runs in the order named; raise `NotFoundError` for one that is not the project's."""
    found = {
        run.id: run for run in session.scalars(select(Run).where(Run.id.in_(run_ids), Run.project_id == project_id))
    }
    if missing := [item for item in run_ids if item not in found]:
        raise NotFoundError(f"This project has no run {missing[0]}.")
    return [found[item] for item in run_ids]
