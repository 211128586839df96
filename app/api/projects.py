"""REST API, version 1: the token itself, and projects."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import Field
from starlette.responses import Response

from app.api import versions
from app.api.callers import AnyCaller, ExportCaller, TasksCaller
from app.api.once import OnceDep, json_only
from app.api.problems import EDITS, PROBLEMS, WRITES
from app.api.schemas import Closed, Moment, Page, PageQuery, Text, example, page
from app.api.versions import IfMatch
from app.db import SessionDep
from app.errors import ForbiddenError, InvalidInputError
from app.models import Project
from app.services.accounts import tokens
from app.services.api import work
from app.services.projects import project_settings, projects
from app.services.projects.guidelines import MAX_GUIDELINES
from app.services.projects.project_settings import NewSettings
from app.services.projects.projects import NewProject

router = APIRouter(prefix="/api/v1", responses=PROBLEMS, tags=["projects"])

State = Literal["open", "paused", "archived"]
Access = Literal["everyone", "members"]
QueueOrder = Literal["arrival", "random", "uncertainty", "margin"]

_NUMBERS = {field.name for field in fields(NewSettings) if field.type == "int"}


class TokenOut(Closed):
    """The token that asks."""

    model_config = example(
        {
            "name": "nightly",
            "scopes": ["export:read", "runs:read"],
            "project_id": "0198c0de-0000-7000-8000-000000000001",
            "expires_at": "2027-01-31T09:00:00Z",
        }
    )
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
            "max_leases": 2,
            "gold_percent": 5,
            "screening_tasks": 10,
            "screening_percent": 75,
            "queue_order": "arrival",
            "random_percent": 20,
            "round_weight_percent": 100,
            "policy_weights": {},
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
    access: Access
    deadline_at: datetime | None
    max_leases: int = Field(description="tasks that one labeler may have in hand")
    gold_percent: int
    screening_tasks: int
    screening_percent: int
    queue_order: QueueOrder
    random_percent: int
    round_weight_percent: int
    policy_weights: dict[str, float]
    created_at: datetime


class ProjectIn(Closed):
    """A new project and the first version of its guidelines, in Markdown."""

    model_config = example({"name": "Kindness", "guidelines": "Prefer the kinder answer.", "k": 4, "overlap": 2})
    name: Text = Field(min_length=1, max_length=projects.MAX_NAME)
    guidelines: Text = Field(min_length=1, max_length=MAX_GUIDELINES)
    k: int = Field(4, ge=2, le=9)
    overlap: int = Field(1, ge=1, le=16)
    lease_minutes: int = Field(60, ge=1, le=1440)
    held_out_percent: int = Field(20, ge=0, le=90)


class ProjectChange(Closed):
    """What changes of a project; what is left out stays. `deadline_at` may be null, for none.

    With `open_tasks_too` the new overlap is that of the open tasks as well.
    """

    model_config = example({"state": "open", "overlap": 2, "gold_percent": 5})
    state: State | None = None
    overlap: int | None = Field(None, ge=1, le=16)
    open_tasks_too: bool = False
    lease_minutes: int | None = Field(None, ge=1, le=1440)
    max_leases: int | None = Field(None, ge=1, le=20)
    deadline_at: Moment | None = None
    access: Access | None = None
    gold_percent: int | None = Field(None, ge=0, le=50)
    screening_tasks: int | None = Field(None, ge=0, le=100)
    screening_percent: int | None = Field(None, ge=0, le=100)
    queue_order: QueueOrder | None = None
    random_percent: int | None = Field(None, ge=0, le=100)
    round_weight_percent: int | None = Field(None, ge=0, le=100)
    policy_weights: dict[Text, Annotated[float, Field(ge=0, le=100)]] | None = Field(None, max_length=100)

    def settings(self, project: Project) -> NewSettings:
        """Return the project's settings with these changes, as the page of settings would send them."""
        values = project_settings.shown(project) | {
            name: str(value)
            for name, value in self.model_dump(include=set(project_settings.shown(project)), exclude_none=True).items()
        }
        if "deadline_at" in self.model_fields_set:
            values["deadline"] = self.deadline_at.isoformat() if self.deadline_at else ""
        if self.policy_weights is not None:
            if any(len(name.splitlines()) != 1 for name in self.policy_weights):
                raise InvalidInputError("The name of a policy is one line.")
            values["policy_weights"] = "\n".join(f"{name} {weight}" for name, weight in self.policy_weights.items())
        numbers = {name: int(value) for name, value in values.items() if name in _NUMBERS}
        return NewSettings(**values | numbers)  # type: ignore[arg-type]  # as the page's form reads them


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


@router.post("/projects", responses=WRITES, status_code=201, response_model=ProjectOut)
def create_project(sent: ProjectIn, session: SessionDep, caller: TasksCaller, once: OnceDep) -> Response:
    """Make a project. A token that is for one project makes no other."""
    if caller.project_id is not None:
        raise ForbiddenError("This token is for one project and makes no other. Ask an admin for one for all projects.")
    made = projects.create(session, tokens.maker(session, caller), NewProject(**sent.model_dump()))
    session.flush()
    shown = ProjectOut(**work.project(session, made.id))
    return once.answer(shown, 201, Location=f"/api/v1/projects/{made.id}", ETag=versions.etag(shown))


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
    """Change a project's settings; pause it, archive it, or open it again."""
    caller.require_project(project_id)
    project = projects.lock(session, project_id)
    versions.check(if_match, ProjectOut(**work.project(session, project_id)))
    by = tokens.maker(session, caller)
    if change.model_fields_set - {"state"}:
        project_settings.save(session, project, by, change.settings(project), open_tasks_too=change.open_tasks_too)
    if change.state is not None:
        projects.set_state(session, project, by, change.state)
    session.flush()
    shown = ProjectOut(**work.project(session, project_id))
    response.headers["ETag"] = versions.etag(shown)
    return shown
