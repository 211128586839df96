"""Pages of jobs: how far a worker is with a snapshot or an import, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from fastapi import Request
from sqlalchemy import func, select
from starlette.responses import Response

from app.auth import ReviewerUser, page_router
from app.db import SessionDep
from app.errors import NotFoundError
from app.models import Job, Project
from app.services.data import jobs
from app.services.projects import projects
from app.services.training import charts
from app.templating import render

router = page_router("/projects/{project_id}/jobs/{job_id}")


@dataclass(frozen=True)
class JobPage:
    """Context of `jobs/show.html` and `jobs/_live.html`. `left` says how long it will take, once that can be told."""

    project: Project
    job: Job
    live: bool
    left: str


@router.get("")
def show(request: Request, session: SessionDep, _user: ReviewerUser, project_id: UUID, job_id: UUID) -> Response:
    """Show a job; while it waits or runs, the page keeps itself fresh."""
    return render(request, "jobs/show.html", _page(session, project_id, job_id))


@router.get("/live")
def live(request: Request, session: SessionDep, _user: ReviewerUser, project_id: UUID, job_id: UUID) -> Response:
    """Return the part of the page that changes."""
    return render(request, "jobs/_live.html", _page(session, project_id, job_id))


def _page(session: SessionDep, project_id: UUID, job_id: UUID) -> JobPage:
    job = jobs.get(session, job_id)
    if job.project_id != project_id:
        raise NotFoundError("There is no such job.")
    left = jobs.seconds_left(job, session.execute(select(func.clock_timestamp())).scalar_one())
    is_live = job.state in ("queued", "running")
    return JobPage(projects.get(session, project_id), job, is_live, charts.spoken(left) if left is not None else "")
