"""Pages of the labels' quality: a project's figures, and work that is set aside. For reviewers and admins.

POST /projects/{id}/quality/compute             ask for new figures
POST /projects/{id}/quality/set-aside/preview   the form again, with what the next snapshot would hold
POST /projects/{id}/quality/set-aside           user_id (empty: everyone), starts_at, ends_at (UTC), reason
POST /projects/{id}/quality/set-aside/{id}/lift
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from pydantic import Field, field_validator
from starlette.responses import Response

from app.auth import ReviewerUser, page_router
from app.db import SessionDep
from app.errors import InvalidInputError
from app.forms import FormModel, Submitted, blank, form_of
from app.models import Project
from app.services.labeling import previews
from app.services.labeling.previews import Held, Preview
from app.services.projects import projects
from app.services.quality import quality, quality_words, quarantines
from app.services.quality.quality import Report
from app.services.quality.quality_words import Figure, LabelerLine
from app.services.quality.quarantines import NewQuarantine
from app.templating import redirect, render

router = page_router("/projects")


@dataclass(frozen=True)
class QualityPage:
    """Context of `quality/figures.html`."""

    project: Project
    report: Report
    figures: Sequence[Figure]
    labelers: Sequence[LabelerLine]


@dataclass(frozen=True)
class SetAsidePage:
    """Context of `quality/set_aside.html`. With a `preview` the form only waits to be confirmed."""

    project: Project
    form: Submitted[QuarantineForm]
    people: Sequence[tuple[str, str]]
    quarantines: Sequence[quarantines.Line]
    held: Held
    preview: Preview | None


class QuarantineForm(FormModel):
    """Whose work of which time is set aside, and why. Times are UTC."""

    user_id: UUID | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    reason: str = Field(min_length=1, max_length=quarantines.MAX_REASON)

    @field_validator("user_id", "starts_at", "ends_at", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("starts_at", "ends_at")
    @classmethod
    def _is_utc(cls, value: datetime | None) -> datetime | None:
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)

    def as_new(self) -> NewQuarantine:
        """Return it as the service takes it."""
        return NewQuarantine(self.user_id, self.starts_at, self.ends_at, self.reason)


QuarantineSent = Annotated[Submitted[QuarantineForm], Depends(form_of(QuarantineForm))]


@router.get("/{project_id}/quality")
def show(request: Request, project_id: UUID, _user: ReviewerUser, session: SessionDep) -> Response:
    """Show how far the labels can be trusted, and whose."""
    project = projects.get(session, project_id)
    report = quality.report(session, project.id)
    body = report.body
    page = QualityPage(
        project,
        report,
        quality_words.figures(body) if body else [],
        quality_words.labelers(session, body) if body else [],
    )
    return render(request, "quality/figures.html", page)


@router.post("/{project_id}/quality/compute")
def compute(project_id: UUID, user: ReviewerUser, session: SessionDep) -> Response:
    """Ask for new figures; a worker computes them."""
    project = projects.get(session, project_id)
    quality.request(session, project, user)
    return redirect(f"/projects/{project.id}/quality", done="figures-requested")


@router.get("/{project_id}/quality/set-aside")
def show_set_aside(
    request: Request, project_id: UUID, _user: ReviewerUser, session: SessionDep, labeler: UUID | None = None
) -> Response:
    """Show what is set aside, and the form to set aside more, for one labeler if a link says so."""
    project = projects.get(session, project_id)
    return _set_aside(request, session, project, blank(user_id=str(labeler or "")))


@router.post("/{project_id}/quality/set-aside/preview")
def preview_set_aside(
    request: Request, project_id: UUID, user: ReviewerUser, session: SessionDep, submitted: QuarantineSent
) -> Response:
    """Show what the next snapshot would hold; nothing is stored."""
    project = projects.get(session, project_id)
    if submitted.data is None:
        return _set_aside(request, session, project, submitted, status=422)
    try:
        preview = previews.of_quarantine(session, project, user, submitted.data.as_new())
    except InvalidInputError as error:
        return _set_aside(request, session, project, submitted.refused(error), status=error.status)
    return _set_aside(request, session, project, submitted, preview)


@router.post("/{project_id}/quality/set-aside")
def set_aside(
    request: Request, project_id: UUID, user: ReviewerUser, session: SessionDep, submitted: QuarantineSent
) -> Response:
    """Set the work aside, from the next snapshot on."""
    project = projects.get(session, project_id)
    if submitted.data is None:
        return _set_aside(request, session, project, submitted, status=422)
    try:
        quarantines.create(session, project, user, submitted.data.as_new())
    except InvalidInputError as error:
        return _set_aside(request, session, project, submitted.refused(error), status=error.status)
    return redirect(f"/projects/{project.id}/quality/set-aside", done="set-aside")


@router.post("/{project_id}/quality/set-aside/{quarantine_id}/lift")
def lift(project_id: UUID, quarantine_id: UUID, user: ReviewerUser, session: SessionDep) -> Response:
    """Let what was set aside count again."""
    project = projects.get(session, project_id)
    quarantines.lift(session, project, user, quarantine_id)
    return redirect(f"/projects/{project.id}/quality/set-aside", done="lifted")


def _set_aside(
    request: Request,
    session: SessionDep,
    project: Project,
    form: Submitted[QuarantineForm],
    preview: Preview | None = None,
    status: int = 200,
) -> Response:
    page = SetAsidePage(
        project,
        form,
        [("", "Everyone"), *((str(user_id), name) for user_id, name in quarantines.people(session, project.id))],
        quarantines.listed(session, project.id),
        preview.before if preview else previews.held(session, project.id),
        preview,
    )
    return render(request, "quality/set_aside.html", page, status)
