"""REST API, version 1: tasks, made of answers, opened, and changed one at a time."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import Field
from starlette.responses import Response

from app.api import versions
from app.api.callers import ExportCaller, ExportProject, TasksCaller, TasksProject
from app.api.once import OnceDep, json_only
from app.api.problems import EDITS, PROBLEMS, WRITES
from app.api.schemas import Closed, Page, PageQuery, example, page
from app.api.versions import IfMatch
from app.db import SessionDep
from app.services.accounts import tokens
from app.services.api import work
from app.services.labeling import made_tasks, task_changes, tasks
from app.services.labeling.task_changes import Change

router = APIRouter(prefix="/api/v1", responses=PROBLEMS, tags=["tasks"])

Kind = Literal["ranking", "demonstration", "edit", "chat", "import"]
State = Literal["draft", "open", "closed"]
Priority = Annotated[int, Field(ge=task_changes.LOWEST_PRIORITY, le=task_changes.HIGHEST_PRIORITY)]
Overlap = Annotated[int, Field(ge=1, le=16)]


class TaskOut(Closed):
    """A prompt to be judged: how many are to judge it (`overlap`), how many have (`done`) or hold it just now."""

    model_config = example(
        {
            "id": "0198c0de-0000-7000-8000-000000000022",
            "project_id": "0198c0de-0000-7000-8000-000000000001",
            "prompt_id": "0198c0de-0000-7000-8000-000000000021",
            "kind": "ranking",
            "state": "open",
            "purpose": "collect",
            "tags": [],
            "priority": 10,
            "overlap": 2,
            "open_leases": 0,
            "done": 1,
            "completion_ids": ["0198c0de-0000-7000-8000-000000000023", "0198c0de-0000-7000-8000-000000000024"],
            "created_at": "2026-11-02T09:00:00Z",
        }
    )
    id: UUID
    project_id: UUID
    prompt_id: UUID
    kind: Kind
    state: State
    purpose: Literal["collect", "gold", "screening", "evaluation"]
    tags: list[str]
    priority: int
    overlap: int
    open_leases: int
    done: int
    completion_ids: list[UUID]
    created_at: datetime


class TaskIn(Closed):
    """A ranking task of answers to one prompt; without an overlap, the project's holds."""

    model_config = example(
        {
            "completion_ids": ["0198c0de-0000-7000-8000-000000000001", "0198c0de-0000-7000-8000-000000000002"],
            "overlap": 2,
            "priority": 10,
            "open": True,
        }
    )
    completion_ids: list[UUID] = Field(min_length=made_tasks.FEWEST, max_length=made_tasks.MOST)
    overlap: Overlap | None = None
    priority: Priority = 0
    open: bool = Field(True, description="whether labelers get it at once; else it is a draft")


class TaskChange(Closed):
    """What is to become of a task; what is not named stays. An overlap never falls below what was answered."""

    model_config = example({"priority": 100})
    state: Literal["open", "closed"] | None = None
    priority: Priority | None = None
    overlap: Overlap | None = None


class OpenIn(Closed):
    """Which tasks to open: all drafts of rankings, or a demonstration of each training prompt that has none."""

    model_config = example({"kind": "ranking"})
    kind: Literal["ranking", "demonstration"]


class OpenedOut(Closed):
    """How many tasks are new to labelers."""

    model_config = example({"opened": 12})
    opened: int


class TasksQuery(PageQuery):
    """Which tasks."""

    kind: Kind | None = None
    state: State | None = None
    purpose: Literal["collect", "gold", "screening", "evaluation"] | None = None
    prompt_id: UUID | None = None


@router.get("/projects/{project_id}/tasks")
def list_tasks(session: SessionDep, project: ExportProject, asked: Annotated[TasksQuery, Query()]) -> Page[TaskOut]:
    """List a project's tasks."""
    return page(
        asked,
        TaskOut,
        lambda part: work.tasks(
            session,
            project.id,
            part,
            kind=asked.kind,
            state=asked.state,
            purpose=asked.purpose,
            prompt_id=asked.prompt_id,
        ),
        project.id,
    )


@router.post("/projects/{project_id}/tasks", responses=WRITES, status_code=201, response_model=TaskOut)
def make_task(sent: TaskIn, session: SessionDep, caller: TasksCaller, project: TasksProject, once: OnceDep) -> Response:
    """Make a ranking task of answers that are there already."""
    made = made_tasks.make(
        session,
        project,
        tokens.maker(session, caller),
        sent.completion_ids,
        overlap=sent.overlap,
        priority=sent.priority,
        opened=sent.open,
    )
    shown = TaskOut(**work.task(session, made))
    return once.answer(shown, 201, Location=f"/api/v1/tasks/{made}", ETag=versions.etag(shown))


@router.post("/projects/{project_id}/tasks/open", responses=WRITES, response_model=OpenedOut)
def open_tasks(
    sent: OpenIn, session: SessionDep, caller: TasksCaller, project: TasksProject, once: OnceDep
) -> Response:
    """Open a project's tasks of one kind; those that are open already stay so."""
    opened = tasks.open_tasks(session, project, tokens.maker(session, caller), sent.kind)
    return once.answer(OpenedOut(opened=opened))


@router.get("/tasks/{task_id}")
def read_task(task_id: UUID, session: SessionDep, caller: ExportCaller, response: Response) -> TaskOut:
    """Return a task. Its ETag is what a change of it needs; it changes with every lease and answer, too."""
    found = work.task(session, task_id)
    caller.require_project(found["project_id"])
    shown = TaskOut(**found)
    response.headers["ETag"] = versions.etag(shown)
    return shown


@router.patch("/tasks/{task_id}", responses=EDITS, dependencies=[Depends(json_only)])
def change_task(
    task_id: UUID,
    sent: TaskChange,
    session: SessionDep,
    caller: TasksCaller,
    response: Response,
    if_match: IfMatch = None,
) -> TaskOut:
    """Close or reopen a task, or change its priority or overlap."""
    project_id = work.task(session, task_id)["project_id"]
    caller.require_project(project_id)
    which = task_changes.ticked(project_id, [str(task_id)])
    task_changes.lock(session, which)
    versions.check(if_match, TaskOut(**work.task(session, task_id)))
    change = Change(sent.priority, sent.overlap, sent.state)
    task_changes.apply(session, project_id, tokens.maker(session, caller), which, change)
    shown = TaskOut(**work.task(session, task_id))
    response.headers["ETag"] = versions.etag(shown)
    return shown
