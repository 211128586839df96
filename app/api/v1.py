"""REST API, version 1: projects and runs. Errors are problem+json (RFC 9457)."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from app.api.callers import ExportCaller, RunsCaller
from app.api.problems import PROBLEMS
from app.db import SessionDep
from app.models import Project, Run
from app.services.projects import projects
from app.services.training import runs

router = APIRouter(prefix="/api/v1", responses=PROBLEMS, tags=["v1"])


class ProjectOut(BaseModel):
    """A project."""

    model_config = ConfigDict(extra="forbid")
    id: UUID
    name: str
    state: Literal["open", "paused", "archived"]
    k: int
    overlap: int
    held_out_fraction: float
    created_at: datetime


class RunOut(BaseModel):
    """A run and how far it is. `summary` holds the main figures of its report once it has succeeded."""

    model_config = ConfigDict(extra="forbid")
    id: UUID
    project_id: UUID
    name: str
    method: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    state_reason: str | None
    attempt: int
    progress_step: int | None
    progress_total: int | None
    snapshot_id: UUID | None
    parent_model_id: UUID | None
    model_id: UUID | None
    summary: dict[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


@router.get("/projects")
def list_projects(session: SessionDep, caller: ExportCaller) -> list[ProjectOut]:
    """List the projects that the token may see."""
    visible = [item for item in projects.listed(session) if caller.project_id in (None, item.id)]
    return [_project_out(item) for item in visible]


@router.get("/runs/{run_id}")
def read_run(run_id: UUID, session: SessionDep, caller: RunsCaller) -> RunOut:
    """Return a run and how far it is."""
    run = runs.get(session, run_id)
    caller.require_project(run.project_id)
    return _run_out(run, runs.result_id(session, run))


def _project_out(project: Project) -> ProjectOut:
    return ProjectOut(**{name: getattr(project, name) for name in ProjectOut.model_fields})


def _run_out(run: Run, model_id: UUID | None) -> RunOut:
    summary = run.report.get("summary") if run.report else None
    known = {name: getattr(run, name) for name in RunOut.model_fields if name not in ("summary", "model_id")}
    return RunOut(**known, summary=summary, model_id=model_id)
