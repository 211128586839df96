"""The weekly loop, as the API lists it: schedules, and pipelines with their stages."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session

from app.models import Pipeline, PipelineStage, Schedule
from app.services.api.listing import Fields, Listing, Part, one, page

_SCHEDULES = select(
    Schedule.id,
    Schedule.project_id,
    Schedule.name,
    Schedule.cron,
    Schedule.timezone,
    Schedule.recipe,
    Schedule.min_new_rankings,
    Schedule.catch_up,
    Schedule.overlap,
    Schedule.paused,
    Schedule.next_due_at,
    Schedule.created_at,
)
_STAGES = (
    select(
        func.json_agg(
            aggregate_order_by(
                func.json_build_object(
                    "kind",
                    PipelineStage.kind,
                    "name",
                    PipelineStage.name,
                    "attempt",
                    PipelineStage.attempt,
                    "state",
                    PipelineStage.state,
                    "reason",
                    PipelineStage.reason,
                    "run_id",
                    PipelineStage.run_id,
                ),
                PipelineStage.position,
                PipelineStage.attempt,
            )
        )
    )
    .where(PipelineStage.pipeline_id == Pipeline.id)
    .correlate(Pipeline)
    .scalar_subquery()
)
_PIPELINES = select(
    Pipeline.id,
    Pipeline.project_id,
    Pipeline.number,
    Pipeline.name,
    Pipeline.schedule_id,
    Pipeline.state,
    Pipeline.reason,
    Pipeline.attempt,
    func.coalesce(_STAGES, func.json_build_array()).label("stages"),
    Pipeline.created_at,
    Pipeline.finished_at,
)


def schedules(session: Session, project_id: UUID, part: Part, *, paused: bool | None = None) -> Listing:
    """Return a project's schedules."""
    query = _SCHEDULES.where(Schedule.project_id == project_id)
    return page(session, query if paused is None else query.where(Schedule.paused.is_(paused)), Schedule.id, part)


def schedule(session: Session, schedule_id: UUID) -> Fields:
    """Return a schedule, or raise `NotFoundError`."""
    return one(session, _SCHEDULES, Schedule.id, schedule_id)


def pipelines(
    session: Session, project_id: UUID, part: Part, *, state: str | None = None, schedule_id: UUID | None = None
) -> Listing:
    """Return a project's rounds."""
    query = _PIPELINES.where(Pipeline.project_id == project_id)
    if state is not None:
        query = query.where(Pipeline.state == state)
    if schedule_id is not None:
        query = query.where(Pipeline.schedule_id == schedule_id)
    return page(session, query, Pipeline.id, part)


def pipeline(session: Session, pipeline_id: UUID) -> Fields:
    """Return a round with its stages, or raise `NotFoundError`."""
    return one(session, _PIPELINES, Pipeline.id, pipeline_id)
