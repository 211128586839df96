"""Pages of blind evaluations: those of a project, the form that starts one, and what one has found.

POST /projects/{id}/blind    pair (run:candidate:incumbent), overlap
POST /blind/{id}/stop
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from pydantic import Field
from starlette.responses import Response

from app.auth import AdminUser, ReviewerUser, page_router
from app.db import SessionDep
from app.errors import ConflictError, InvalidInputError
from app.forms import FormModel, Submitted, blank, form_of
from app.models import Project, Run
from app.services.evaluation import blind, blind_figures, courses
from app.services.evaluation.blind import Line
from app.services.evaluation.courses import Course
from app.services.projects import projects
from app.services.training import registry, runs
from app.templating import redirect, render

router = page_router()

UUIDS = r"[0-9a-f-]{36}"


class BlindForm(FormModel):
    """Which two policies of which run, and how many labelers judge each prompt."""

    pair: str = Field(pattern=rf"^{UUIDS}:{UUIDS}:{UUIDS}$")
    overlap: int = Field(ge=1, le=16)


@dataclass(frozen=True)
class BlindListPage:
    """Context of `evaluations/list.html`. `pairs` are (value, words) of what could be judged."""

    project: Project
    lines: Sequence[Line]
    pairs: Sequence[tuple[str, str]]
    form: Submitted[BlindForm]
    may_change: bool


@dataclass(frozen=True)
class BlindPage:
    """Context of `evaluations/show.html`."""

    project: Project
    line: Line
    run: Run
    course: Course | None
    may_stop: bool


Sent = Annotated[Submitted[BlindForm], Depends(form_of(BlindForm))]


@router.get("/projects/{project_id}/blind")
def list_blind(request: Request, session: SessionDep, user: ReviewerUser, project_id: UUID) -> Response:
    """List a project's blind evaluations."""
    project = projects.get(session, project_id)
    return _list(request, session, project, blank(overlap="1"), may_change=user.role == "admin")


@router.post("/projects/{project_id}/blind")
def start(request: Request, session: SessionDep, admin: AdminUser, project_id: UUID, submitted: Sent) -> Response:
    """Open the tasks of a blind evaluation and lead to its page; twice leads to the same."""
    project = projects.get(session, project_id)
    form = submitted.data
    if form is None:
        return _list(request, session, project, submitted, may_change=True, status=422)
    run_id, candidate_id, incumbent_id = map(UUID, form.pair.split(":"))
    run = runs.get(session, run_id)
    candidate, incumbent = registry.get(session, candidate_id), registry.get(session, incumbent_id)
    try:
        evaluation = blind.start(session, project, admin, run, candidate, incumbent, overlap=form.overlap)
    except (InvalidInputError, ConflictError) as error:
        return _list(request, session, project, submitted.refused(error), may_change=True, status=error.status)
    return redirect(f"/blind/{evaluation.id}", done="blind-started")


@router.get("/blind/{evaluation_id}")
def show(request: Request, session: SessionDep, user: ReviewerUser, evaluation_id: UUID) -> Response:
    """Show what a blind evaluation has found so far."""
    evaluation = blind.get(session, evaluation_id)
    page = BlindPage(
        projects.get(session, evaluation.project_id),
        blind.line(session, evaluation),
        runs.get(session, evaluation.run_id),
        courses.drawn(blind_figures.course(session, evaluation)),
        user.role == "admin" and evaluation.state == "open",
    )
    return render(request, "evaluations/show.html", page)


@router.post("/blind/{evaluation_id}/stop")
def stop(session: SessionDep, admin: AdminUser, evaluation_id: UUID) -> Response:
    """Stop a blind evaluation; what is known by now stands."""
    evaluation = blind.stop(session, evaluation_id, admin)
    return redirect(f"/blind/{evaluation.id}", done="blind-stopped")


def _list(
    request: Request,
    session: SessionDep,
    project: Project,
    form: Submitted[BlindForm],
    *,
    may_change: bool,
    status: int = 200,
) -> Response:
    page = BlindListPage(
        project, blind.listed(session, project.id), _pairs(session, project) if may_change else (), form, may_change
    )
    return render(request, "evaluations/list.html", page, status)


def _pairs(session: SessionDep, project: Project) -> list[tuple[str, str]]:
    """Return every two policies that an evaluation run has judged; the baseline stands second, as the incumbent."""
    return [
        (f"{choice.run.id}:{candidate}:{incumbent}", f"{ours} against {theirs} ({choice.run.created_at:%d %b %H:%M})")
        for choice in blind.choices(session, project.id)
        for place, (incumbent, theirs) in enumerate(choice.policies.items())
        for candidate, ours in list(choice.policies.items())[place + 1 :]
    ]
