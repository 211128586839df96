"""The tasks of a project for those who run it: the list and changes to it, who works now, what was flagged.

POST /projects/{id}/tasks                      which=ticked|filtered, task=… (again for each), the filter's fields,
                                               and priority, overlap, or state=closed|open
POST /projects/{id}/leases/{assignment}/release
POST /projects/{id}/flags/{flag}               resolution=closed|dismissed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Literal
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Depends, Query, Request
from pydantic import Field
from starlette.responses import Response

from app.auth import AdminUser, ReviewerUser, page_router
from app.db import SessionDep
from app.errors import InvalidInputError
from app.forms import FormModel, Submitted, form_of
from app.models import Project
from app.services.labeling import flags, leases, task_changes, task_list
from app.services.labeling.flags import FlagRow
from app.services.labeling.leases import Lease
from app.services.labeling.task_changes import Change, Report
from app.services.labeling.task_list import Filter, TaskPage
from app.services.projects import projects
from app.templating import redirect, render

router = page_router("/projects")


class ChangeForm(FormModel):
    """What to change, and in which tasks."""

    which: Literal["ticked", "filtered"]
    state: Literal["", "draft", "open", "closed"] = ""
    kind: Literal["", "ranking", "demonstration", "edit", "chat"] = ""
    purpose: Literal["", "collect", "gold", "screening", "evaluation"] = ""
    tag: str = Field(default="", max_length=100)
    priority: str = Field(default="", max_length=8)
    overlap: str = Field(default="", max_length=8)
    action: Literal["set", "close", "reopen"]


class ResolveForm(FormModel):
    """What becomes of a flag."""

    resolution: Literal["closed", "dismissed"]


@dataclass(frozen=True)
class TasksPage:
    """Context of `projects/tasks.html`. `query` is the filter as it stands in addresses; `many` is where counts end."""

    project: Project
    wanted: Filter
    query: str
    page: TaskPage
    tags: Sequence[str]
    many: int
    report: Report | None
    may_change: bool
    open_flags: int


@dataclass(frozen=True)
class LeasesPage:
    """Context of `projects/leases.html`."""

    project: Project
    leases: Sequence[Lease]
    most: int
    may_change: bool
    open_flags: int


@dataclass(frozen=True)
class FlagsPage:
    """Context of `projects/flags.html`."""

    project: Project
    flags: Sequence[FlagRow]
    open_flags: int


async def ticked_tasks(request: Request) -> list[str]:
    """Return the ids of the tasks that the form has ticked."""
    form = await request.form()
    return [value for value in form.getlist("task") if isinstance(value, str)]


@router.get("/{project_id}/tasks")
def list_tasks(
    request: Request,
    project_id: UUID,
    user: ReviewerUser,
    session: SessionDep,
    state: Annotated[str, Query(max_length=40)] = "",
    kind: Annotated[str, Query(max_length=40)] = "",
    purpose: Annotated[str, Query(max_length=40)] = "",
    tag: Annotated[str, Query(max_length=100)] = "",
    before: UUID | None = None,
    after: UUID | None = None,
    report: UUID | None = None,
) -> Response:
    """List tasks, filtered and a page at a time."""
    project = projects.get(session, project_id)
    wanted = Filter(state, kind, purpose, tag.strip().lower())
    page = TasksPage(
        project,
        wanted,
        urlencode({key: value for key, value in asdict(wanted).items() if value}),
        task_list.page(session, project.id, wanted, before=before, after=after),
        task_list.tags_in_use(session, project.id),
        task_list.MANY,
        task_changes.report(session, project.id, report) if report else None,
        user.role == "admin",
        flags.count_open(session, project.id),
    )
    return render(request, "projects/tasks.html", page)


@router.post("/{project_id}/tasks")
def change_tasks(
    project_id: UUID,
    admin: AdminUser,
    session: SessionDep,
    form: Annotated[Submitted[ChangeForm], Depends(form_of(ChangeForm, but=("task",)))],
    ticked: Annotated[list[str], Depends(ticked_tasks)],
) -> Response:
    """Change the tasks that are ticked, or all that the filter shows."""
    data = form.data
    if data is None:
        raise InvalidInputError("Choose which tasks to change and how. Reload the page and try again.")
    project = projects.get(session, project_id)
    wanted = Filter(data.state, data.kind, data.purpose, data.tag)
    filtered = wanted.condition(project.id)
    which = filtered if data.which == "filtered" else task_changes.ticked(project.id, ticked)
    change = {
        "set": Change(task_changes.priority_of(data.priority), task_changes.overlap_of(data.overlap)),
        "close": Change(state="closed"),
        "reopen": Change(state="open"),
    }[data.action]
    report = task_changes.apply(session, project.id, admin, which, change)
    query = urlencode({**{key: value for key, value in asdict(wanted).items() if value}, "report": str(report)})
    return redirect(f"/projects/{project.id}/tasks?{query}")


@router.get("/{project_id}/leases")
def list_leases(request: Request, project_id: UUID, user: ReviewerUser, session: SessionDep) -> Response:
    """Show who works now."""
    project = projects.get(session, project_id)
    page = LeasesPage(
        project,
        leases.listed(session, project.id),
        leases.MOST_SHOWN,
        user.role == "admin",
        flags.count_open(session, project.id),
    )
    return render(request, "projects/leases.html", page)


@router.post("/{project_id}/leases/{assignment_id}/release")
def release_lease(project_id: UUID, assignment_id: UUID, admin: AdminUser, session: SessionDep) -> Response:
    """Take a task back from its labeler."""
    leases.release(session, project_id, assignment_id, admin)
    return redirect(f"/projects/{project_id}/leases", done="lease-released")


@router.get("/{project_id}/flags")
def list_flags(request: Request, project_id: UUID, _user: ReviewerUser, session: SessionDep) -> Response:
    """Show what labelers have flagged."""
    project = projects.get(session, project_id)
    page = FlagsPage(project, flags.listed(session, project.id), flags.count_open(session, project.id))
    return render(request, "projects/flags.html", page)


@router.post("/{project_id}/flags/{flag_id}")
def resolve_flag(
    project_id: UUID,
    flag_id: UUID,
    reviewer: ReviewerUser,
    session: SessionDep,
    form: Annotated[Submitted[ResolveForm], Depends(form_of(ResolveForm))],
) -> Response:
    """Settle a flag."""
    resolution = form.data.resolution if form.data else ""
    flags.resolve(session, project_id, flag_id, reviewer, resolution)
    return redirect(f"/projects/{project_id}/flags", done=f"flag-{resolution}")
