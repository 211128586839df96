"""REST API, version 1: projects, the export of rankings, and runs. Errors are problem+json (RFC 9457)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import anyio
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.api.callers import ExportCaller, RunsCaller
from app.db import SessionDep, reading
from app.models import Project, Run
from app.services import exports, projects, runs
from app.services.exports import ExportedRanking


class Problem(BaseModel):
    """What went wrong, after RFC 9457. `detail` is a sentence that names the remedy."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/problem+json": {"schema": Problem.model_json_schema()}}}
    for status, text in (
        (401, "There is no token, or it is not good."),
        (403, "The token lacks the scope."),
        (404, "There is no such thing, or it belongs to a project that the token may not see."),
    )
}

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


class ClosingStream(StreamingResponse):
    """A stream whose source is closed however it ends, also when the client goes away in the middle."""

    def __init__(self, lines: Iterator[bytes], close: Callable[[], None], media_type: str) -> None:
        super().__init__(lines, media_type=media_type)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream, then close its source."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await run_in_threadpool(self._close)


@router.get("/projects")
def list_projects(session: SessionDep, caller: ExportCaller) -> list[ProjectOut]:
    """List the projects that the token may see."""
    visible = [item for item in projects.listed(session) if caller.project_id in (None, item.id)]
    return [_project_out(item) for item in visible]


@router.get(
    "/projects/{project_id}/comparisons",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "One JSON object a line, in the order the rankings were given.",
            "content": {"application/x-ndjson": {"schema": ExportedRanking.model_json_schema()}},
        }
    },
)
def export_comparisons(project_id: UUID, session: SessionDep, caller: ExportCaller) -> StreamingResponse:
    """Stream all rankings of a project as JSON lines, as they are at the moment of the request."""
    caller.require_project(project_id)
    projects.get(session, project_id)
    source = ExitStack()
    moment = source.enter_context(reading())
    moment.connection()  # Waits for a connection now: once the stream has begun, its status cannot say 503 any more.
    lines = exports.ranking_lines(moment, project_id)
    source.callback(lines.close)
    return ClosingStream(lines, source.close, "application/x-ndjson")


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
