"""Who works in a project and how: its settings, and its members. Admins only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Depends, Request
from pydantic import Field
from starlette.responses import Response

from app.auth import AdminUser, page_router
from app.db import SessionDep
from app.errors import InvalidInputError
from app.forms import FormModel, Submitted, form_of
from app.models import Project
from app.services.labeling import flags, task_changes
from app.services.labeling.task_changes import Report
from app.services.projects import memberships, mixing, project_settings, projects
from app.services.projects.memberships import Member
from app.services.projects.project_settings import NewSettings
from app.templating import redirect, render

router = page_router("/projects")


class SettingsForm(FormModel):
    """The settings as typed. `open_tasks` is there when the overlap is meant for open tasks too."""

    overlap: int = Field(ge=1, le=16)
    lease_minutes: int = Field(ge=1, le=1440)
    max_leases: int = Field(ge=1, le=20)
    deadline: str = Field(default="", max_length=40)
    access: Literal["everyone", "members"]
    gold_percent: int = Field(ge=0, le=50)
    screening_tasks: int = Field(ge=0, le=100)
    screening_percent: int = Field(ge=0, le=100)
    queue_order: Literal["arrival", "random", "uncertainty", "margin"] = "arrival"
    random_percent: int = Field(default=20, ge=0, le=100)
    round_weight_percent: int = Field(default=100, ge=0, le=100)
    policy_weights: str = Field(default="", max_length=4000)
    open_tasks: Literal["yes", ""] = ""


class MemberForm(FormModel):
    """What becomes of a person in the project."""

    user_id: UUID
    state: Literal["active", "screening", "rejected", "removed"]


@dataclass(frozen=True)
class SettingsPage:
    """Context of `projects/settings.html`. `report` says what the last change came to."""

    project: Project
    form: Submitted[SettingsForm]
    now: datetime
    report: Report | None
    open_flags: int


@dataclass(frozen=True)
class MembersPage:
    """Context of `projects/members.html`. `others` are labelers without a standing, as (id, name)."""

    project: Project
    members: Sequence[Member]
    others: Sequence[tuple[UUID, str]]
    open_flags: int


@router.get("/{project_id}/settings")
def show_settings(
    request: Request, project_id: UUID, _admin: AdminUser, session: SessionDep, report: UUID | None = None
) -> Response:
    """Show the settings, and after a change what it came to."""
    project = projects.get(session, project_id)
    found = task_changes.report(session, project.id, report, project_settings.CONFIGURED) if report else None
    return _settings(request, session, project, Submitted(values=project_settings.shown(project)), report=found)


@router.post("/{project_id}/settings")
def save_settings(
    request: Request,
    project_id: UUID,
    admin: AdminUser,
    session: SessionDep,
    submitted: Annotated[Submitted[SettingsForm], Depends(form_of(SettingsForm))],
) -> Response:
    """Store the settings."""
    project = projects.get(session, project_id)
    form = submitted.data
    if form is None:
        return _settings(request, session, project, submitted, status=422)
    try:
        mixing.read_weights(form.policy_weights)
    except InvalidInputError as error:
        return _settings(request, session, project, submitted.refused(error, "policy_weights"), status=error.status)
    new = NewSettings(**form.model_dump(exclude={"open_tasks"}))
    try:
        report = project_settings.save(session, project, admin, new, open_tasks_too=bool(form.open_tasks))
    except InvalidInputError as error:
        return _settings(request, session, project, submitted.refused(error, "deadline"), status=error.status)
    path = f"/projects/{project.id}/settings"
    return redirect(f"{path}?report={report}" if report else path, done="settings-saved")


@router.get("/{project_id}/members")
def show_members(request: Request, project_id: UUID, _admin: AdminUser, session: SessionDep) -> Response:
    """Show who has a standing in the project."""
    project = projects.get(session, project_id)
    page = MembersPage(
        project,
        memberships.listed(session, project.id),
        memberships.could_be_added(session, project.id),
        flags.count_open(session, project.id),
    )
    return render(request, "projects/members.html", page)


@router.post("/{project_id}/members")
def set_member(
    project_id: UUID,
    admin: AdminUser,
    session: SessionDep,
    submitted: Annotated[Submitted[MemberForm], Depends(form_of(MemberForm))],
) -> Response:
    """Let somebody in, put them on trial, turn them down or take them out."""
    form = submitted.data
    if form is None:
        raise InvalidInputError("Choose a person, and what to do: let in, put on trial, turn down or take out.")
    project = projects.get(session, project_id)
    memberships.set_state(session, project, form.user_id, admin, form.state)
    return redirect(f"/projects/{project.id}/members", done=f"member-{form.state}")


def _settings(
    request: Request,
    session: SessionDep,
    project: Project,
    form: Submitted[SettingsForm],
    *,
    report: Report | None = None,
    status: int = 200,
) -> Response:
    now = project_settings.now(session)
    page = SettingsPage(project, form, now, report, flags.count_open(session, project.id))
    return render(request, "projects/settings.html", page, status)
