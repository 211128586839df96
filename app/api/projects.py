"""REST API, version 1: the token itself, and projects."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from app.api import versions
from app.api.callers import AnyCaller, ExportCaller, TasksCaller
from app.api.once import json_only
from app.api.problems import EDITS, PROBLEMS
from app.api.schemas import Closed, Page, PageQuery, example, page
from app.api.versions import IfMatch
from app.db import SessionDep
from app.services.accounts import tokens
from app.services.api import work
from app.services.projects import projects

router = APIRouter(prefix="/api/v1", responses=PROBLEMS, tags=["projects"])

State = Literal["open", "paused", "archived"]


class TokenOut(Closed):
    """The token that asks."""

    name: str
    scopes: list[str]
    project_id: UUID | None
    expires_at: datetime


class ProjectOut(Closed):
    """A project: K answers to a task, each judged by `overlap` labelers."""

    model_config = example(
        {
            "id": "0198c0de-0000-7000-8000-000000000001",
            "name": "Kindness",
            "state": "open",
            "k": 4,
            "overlap": 2,
            "lease_minutes": 60,
            "held_out_fraction": 0.2,
            "access": "everyone",
            "deadline_at": None,
            "created_at": "2026-11-02T09:00:00Z",
        }
    )
    id: UUID
    name: str
    state: State
    k: int
    overlap: int
    lease_minutes: int
    held_out_fraction: float
    access: Literal["everyone", "members"]
    deadline_at: datetime | None
    created_at: datetime


class ProjectChange(Closed):
    """What is to become of a project."""

    model_config = example({"state": "paused"})
    state: State


class ProjectsQuery(PageQuery):
    """Which projects."""

    state: State | None = None


@router.get("/token")
def read_token(caller: AnyCaller) -> TokenOut:
    """Say what the token may do. Every good token may ask this."""
    return TokenOut(
        name=caller.name, scopes=sorted(caller.scopes), project_id=caller.project_id, expires_at=caller.expires_at
    )


@router.get("/projects")
def list_projects(
    session: SessionDep, caller: ExportCaller, asked: Annotated[ProjectsQuery, Query()]
) -> Page[ProjectOut]:
    """List the projects that the token may see."""
    return page(asked, ProjectOut, lambda part: work.projects(session, part, only=caller.project_id, state=asked.state))


@router.get("/projects/{project_id}")
def read_project(project_id: UUID, session: SessionDep, caller: ExportCaller, response: Response) -> ProjectOut:
    """Return a project. Its ETag is what a change of it needs."""
    caller.require_project(project_id)
    shown = ProjectOut(**work.project(session, project_id))
    response.headers["ETag"] = versions.etag(shown)
    return shown


@router.patch("/projects/{project_id}", responses=EDITS, dependencies=[Depends(json_only)])
def change_project(
    project_id: UUID,
    change: ProjectChange,
    session: SessionDep,
    caller: TasksCaller,
    response: Response,
    if_match: IfMatch = None,
) -> ProjectOut:
    """Pause a project, archive it, or open it again."""
    caller.require_project(project_id)
    project = projects.lock(session, project_id)
    versions.check(if_match, ProjectOut(**work.project(session, project_id)))
    projects.set_state(session, project, tokens.maker(session, caller), change.state)
    session.flush()
    shown = ProjectOut(**work.project(session, project_id))
    response.headers["ETag"] = versions.etag(shown)
    return shown
