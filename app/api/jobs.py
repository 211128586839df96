"""REST API, version 1: jobs, that is snapshots and imports that a worker makes, and what they have come to."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import Field
from sqlalchemy import func, select
from starlette.responses import Response

from app.api.callers import AnyCaller
from app.api.problems import PROBLEMS
from app.api.schemas import Closed, example
from app.auth import guard
from app.db import SessionDep
from app.errors import ForbiddenError
from app.models import Job
from app.services.accounts.tokens import Caller
from app.services.data import jobs

router = APIRouter(prefix="/api/v1", responses=PROBLEMS, tags=["jobs"])

SCOPES = {"import": "import:write", "snapshot": "snapshots:write"}
"""Who may ask for such a job may read it."""


class JobOut(Closed):
    """Work that a worker does. `result` is the report of an import, or names the snapshot.

    `progress` goes from 0 to 1. Of a failed import `details` says what was wrong, by line number.
    """

    model_config = example(
        {
            "id": "0198c0de-0000-7000-8000-000000000061",
            "project_id": "0198c0de-0000-7000-8000-000000000001",
            "kind": "import",
            "state": "running",
            "progress": 0.4,
            "seconds_left": 21.5,
            "result": None,
            "reason": None,
            "details": [],
            "created_at": "2026-11-02T09:00:00Z",
            "started_at": "2026-11-02T09:00:00Z",
            "finished_at": None,
        }
    )
    id: UUID
    project_id: UUID
    kind: Literal["snapshot", "import"]
    state: Literal["queued", "running", "succeeded", "failed"]
    progress: float = Field(ge=0, le=1)
    seconds_left: float | None
    result: dict[str, Any] | None
    reason: str | None
    details: list[str]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {
        "model": JobOut,
        "description": "It takes longer, and a worker does it. `Location` is where its outcome will be.",
    }
}


def shown(session: SessionDep, job: Job) -> JobOut:
    """Return a job as the API shows it."""
    names = JobOut.model_fields.keys() - {"seconds_left"}
    left = jobs.seconds_left(job, session.execute(select(func.clock_timestamp())).scalar_one())
    return JobOut(**{name: getattr(job, name) for name in names}, seconds_left=left)


def location(job: Job) -> str:
    """Return where a job is read."""
    return f"/api/v1/jobs/{job.id}"


def accepted(session: SessionDep, job: Job) -> Response:
    """Return the answer to a request that a worker will do."""
    return Response(
        shown(session, job).model_dump_json(), 202, {"Location": location(job)}, media_type="application/json"
    )


@guard
def _worker_scope(caller: AnyCaller) -> Caller:
    if caller.scopes.isdisjoint(SCOPES.values()):
        raise ForbiddenError(f"This token lacks the scopes {' and '.join(SCOPES.values())}; it needs one.")
    return caller


@router.get("/jobs/{job_id}")
def read_job(job_id: UUID, session: SessionDep, caller: Annotated[Caller, Depends(_worker_scope)]) -> JobOut:
    """Say how far a job is, and what it has come to."""
    job = jobs.get(session, job_id)
    caller.require_project(job.project_id)
    caller.require(SCOPES[job.kind])
    return shown(session, job)
