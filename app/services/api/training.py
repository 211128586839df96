"""The machine's side, as the API lists it: snapshots, runs and model versions."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import ModelVersion, Run, Snapshot
from app.services.api.listing import Fields, Listing, Part, one, page

_SNAPSHOTS = select(
    Snapshot.id,
    Snapshot.project_id,
    Snapshot.number,
    Snapshot.sha256,
    Snapshot.manifest,
    Snapshot.created_at,
)
_RUNS = select(
    Run.id,
    Run.project_id,
    Run.name,
    Run.method,
    Run.state,
    Run.state_reason,
    Run.attempt,
    Run.progress_step,
    Run.progress_total,
    Run.gpus,
    Run.snapshot_id,
    Run.parent_model_id,
    ModelVersion.id.label("model_id"),
    Run.report["summary"].label("summary"),
    Run.cancel_requested_at,
    Run.created_at,
    Run.started_at,
    Run.finished_at,
).outerjoin(ModelVersion, ModelVersion.run_id == Run.id)
_MODELS = select(
    ModelVersion.id,
    ModelVersion.project_id,
    ModelVersion.name,
    ModelVersion.kind,
    ModelVersion.method,
    ModelVersion.state,
    ModelVersion.parent_id,
    ModelVersion.run_id,
    ModelVersion.snapshot_id,
    ModelVersion.metrics,
    ModelVersion.promoted_at,
    ModelVersion.created_at,
)


def snapshots(session: Session, project_id: UUID, part: Part) -> Listing:
    """Return a project's snapshots."""
    return page(session, _SNAPSHOTS.where(Snapshot.project_id == project_id), Snapshot.id, part)


def snapshot(session: Session, snapshot_id: UUID) -> Fields:
    """Return a snapshot, or raise `NotFoundError`."""
    return one(session, _SNAPSHOTS, Snapshot.id, snapshot_id)


def runs(
    session: Session, project_id: UUID, part: Part, *, state: str | None = None, method: str | None = None
) -> Listing:
    """Return a project's runs."""
    query = _RUNS.where(Run.project_id == project_id)
    if state is not None:
        query = query.where(Run.state == state)
    if method is not None:
        query = query.where(Run.method == method)
    return page(session, query, Run.id, part)


def run(session: Session, run_id: UUID) -> Fields:
    """Return a run, or raise `NotFoundError`."""
    return one(session, _RUNS, Run.id, run_id)


def models(
    session: Session, project_id: UUID, part: Part, *, kind: str | None = None, state: str | None = None
) -> Listing:
    """Return a project's model versions."""
    query = _MODELS.where(ModelVersion.project_id == project_id)
    if kind is not None:
        query = query.where(ModelVersion.kind == kind)
    if state is not None:
        query = query.where(ModelVersion.state == state)
    return page(session, query, ModelVersion.id, part)


def model(session: Session, model_id: UUID) -> Fields:
    """Return a model version, or raise `NotFoundError`."""
    return one(session, _MODELS, ModelVersion.id, model_id)
