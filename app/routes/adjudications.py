"""Pages of disagreement: what a reviewer may settle, and one task with its rankings beside the board.

POST /projects/{id}/quality/disagreements/{task}/ranking   the board: the ranking that stands for the task
POST /projects/{id}/quality/disagreements/{task}/dismiss   the labelers' rankings stand as they are
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from fastapi import Request
from starlette.responses import Response

from app.auth import ReviewerUser, page_router
from app.db import SessionDep
from app.errors import ConflictError, InvalidInputError
from app.models import Project, User
from app.routes.boards import CasePage, SentBoard, case_page, gone_on, refused
from app.services.projects import projects
from app.services.quality import adjudications, quality
from app.services.quality.adjudications import Entry
from app.services.quality.quality import Report
from app.templating import redirect, render

router = page_router("/projects")


@dataclass(frozen=True)
class QueuePage:
    """Context of `quality/disagreements.html`."""

    project: Project
    report: Report
    entries: Sequence[Entry]


@router.get("/{project_id}/quality/disagreements")
def show_queue(request: Request, project_id: UUID, user: ReviewerUser, session: SessionDep) -> Response:
    """List the tasks on which labelers disagree most."""
    project = projects.get(session, project_id)
    page = QueuePage(project, quality.report(session, project.id), adjudications.queue(session, project, user))
    return render(request, "quality/disagreements.html", page)


@router.get("/{project_id}/quality/disagreements/{task_id}")
def show_case(request: Request, project_id: UUID, task_id: UUID, user: ReviewerUser, session: SessionDep) -> Response:
    """Show a task with the labelers' rankings, nameless, and the board for the one that stands."""
    project = projects.get(session, project_id)
    return case_page(request, _page(session, project, task_id, user))


@router.post("/{project_id}/quality/disagreements/{task_id}/ranking")
def decide(
    request: Request, project_id: UUID, task_id: UUID, user: ReviewerUser, session: SessionDep, sent: SentBoard
) -> Response:
    """Store the ranking that stands for the task, and go on with the next one."""
    project = projects.get(session, project_id)
    try:
        adjudications.decide(session, project, task_id, user, sent.submit_id, sent.fields)
    except (InvalidInputError, ConflictError) as error:
        return refused(request, error, lambda: _page(session, project, task_id, user, sent.fields))
    return gone_on(request, _after(session, project, user, task_id), "adjudicated")


@router.post("/{project_id}/quality/disagreements/{task_id}/dismiss")
def dismiss(project_id: UUID, task_id: UUID, user: ReviewerUser, session: SessionDep) -> Response:
    """Let the labelers' rankings stand, and go on with the next task."""
    project = projects.get(session, project_id)
    adjudications.dismiss(session, project, task_id, user)
    return redirect(_after(session, project, user, task_id), done="disagreement-dismissed")


def _page(
    session: SessionDep, project: Project, task_id: UUID, user: User, filled: dict[str, str] | None = None
) -> CasePage:
    case = adjudications.case(session, project, task_id, user, filled=filled)
    address = f"/projects/{project.id}/quality/disagreements/{task_id}"
    return CasePage(project, case, address, skip=_after(session, project, user, task_id))


def _after(session: SessionDep, project: Project, user: User, task_id: UUID) -> str:
    """Return the address of the task after this one in the queue, or of the queue at its end."""
    base = f"/projects/{project.id}/quality/disagreements"
    waiting = [entry.task_id for entry in adjudications.queue(session, project, user)]
    if task_id in waiting:
        waiting = waiting[waiting.index(task_id) + 1 :]
    return f"{base}/{waiting[0]}" if waiting else base
