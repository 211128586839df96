"""Pages of rounds: a project's list, one round as a chain of stages that follows itself, the queue put in order."""

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
from app.forms import FormModel, Submitted, form_of
from app.models import Pipeline, Project
from app.services.projects import projects
from app.services.training import pipelines, registry, round_figures, round_pages, runs
from app.services.training.round_figures import Rounds
from app.services.training.round_pages import RoundView
from app.templating import redirect, render

router = page_router()


@dataclass(frozen=True)
class RoundsPage:
    """Context of `rounds/list.html`. `figures` are of the rounds that came as far as a snapshot, the oldest first."""

    project: Project
    rounds: Sequence[Pipeline]
    figures: Rounds
    may_change: bool


@dataclass(frozen=True)
class RoundPage:
    """Context of `rounds/show.html` and of the part of it that is fetched again while the round runs."""

    view: RoundView
    live: bool
    may_change: bool
    problem: str = ""


class OrderForm(FormModel):
    """The wish for another order of the queue; `form_id` makes a second click find the first click's run."""

    form_id: str = Field(min_length=1, max_length=64)


@router.get("/projects/{project_id}/rounds")
def list_rounds(request: Request, session: SessionDep, user: ReviewerUser, project_id: UUID) -> Response:
    """List a project's rounds, the newest first, with what each came to and whether they still teach."""
    project = projects.get(session, project_id)
    figures = round_figures.of_project(session, project.id)
    page = RoundsPage(project, pipelines.of_project(session, project.id), figures, user.role == "admin")
    return render(request, "rounds/list.html", page)


@router.get("/rounds/{pipeline_id}")
def show(request: Request, session: SessionDep, user: ReviewerUser, pipeline_id: UUID) -> Response:
    """Show a round; while it runs, the page keeps itself fresh."""
    return render(request, "rounds/show.html", _page(session, pipeline_id, may_change=user.role == "admin"))


@router.get("/rounds/{pipeline_id}/live")
def live(request: Request, session: SessionDep, user: ReviewerUser, pipeline_id: UUID) -> Response:
    """Return the part of the page that changes. Once the round has ended it asks for no more."""
    return render(request, "rounds/_live.html", _page(session, pipeline_id, may_change=user.role == "admin"))


@router.post("/projects/{project_id}/order-queue")
def order_queue(
    session: SessionDep,
    admin: AdminUser,
    project_id: UUID,
    submitted: Annotated[Submitted[OrderForm], Depends(form_of(OrderForm))],
) -> Response:
    """Let the newest reward model score the tasks that wait, which then change places, and lead to the run."""
    project = projects.get(session, project_id)
    if submitted.data is None:
        raise InvalidInputError("Open the project's page and press its button to put the queue in order.")
    run = runs.create_scoring_run(
        session,
        project,
        admin,
        reward_model=registry.newest_reward_model(session, project.id),
        dedupe_key=f"order:{project.id}:{submitted.data.form_id}",
    )
    return redirect(f"/runs/{run.id}")


@router.post("/rounds/{pipeline_id}/cancel")
def cancel(request: Request, session: SessionDep, admin: AdminUser, pipeline_id: UUID) -> Response:
    """Cancel a round and the run it waits for."""
    try:
        pipelines.cancel(session, pipeline_id, admin)
    except ConflictError as error:
        return _refused(request, session, pipeline_id, error)
    return redirect(f"/rounds/{pipeline_id}", done="round-cancelled")


@router.post("/rounds/{pipeline_id}/retry")
def retry(request: Request, session: SessionDep, admin: AdminUser, pipeline_id: UUID) -> Response:
    """Take a round up again where it stopped."""
    try:
        pipelines.retry(session, pipeline_id, admin)
    except ConflictError as error:
        return _refused(request, session, pipeline_id, error)
    return redirect(f"/rounds/{pipeline_id}", done="round-retried")


def _page(session: SessionDep, pipeline_id: UUID, *, may_change: bool, problem: str = "") -> RoundPage:
    pipeline = pipelines.get(session, pipeline_id)
    return RoundPage(round_pages.view(session, pipeline), pipeline.state == "running", may_change, problem)


def _refused(request: Request, session: SessionDep, pipeline_id: UUID, error: ConflictError) -> Response:
    page = _page(session, pipeline_id, may_change=True, problem=error.message)
    return render(request, "rounds/show.html", page, status=error.status)
