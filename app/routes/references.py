"""Pages of tasks with known answers: gold and trial tasks, how labelers do on them, and who is on trial.

POST /projects/{id}/quality/known/settings             gold_percent, screening_tasks, threshold_percent
POST /projects/{id}/quality/known/{task}               purpose, state
POST /projects/{id}/quality/known/new/{task}/ranking   the board: the reviewer's ranking becomes the reference
POST /projects/{id}/quality/known/new/{task}/verdict   purpose: the task's adjudication becomes the reference
POST /projects/{id}/quality/trials/{user}              state: active, rejected or screening
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Depends, Request
from starlette.responses import Response

from app.auth import ReviewerUser, page_router
from app.db import SessionDep
from app.errors import ConflictError, InvalidInputError
from app.forms import FormModel, Submitted, form_of
from app.models import Project
from app.routes.boards import CasePage, SentBoard, case_page, gone_on, refused
from app.services.labeling import judgements
from app.services.projects import memberships, projects
from app.services.projects.memberships import Member
from app.services.quality import adjudications, quality, quality_words, references
from app.services.quality.quality_words import GoldLine
from app.services.quality.references import Candidate, Line, Purpose
from app.templating import redirect, render

router = page_router("/projects")


@dataclass(frozen=True)
class KnownPage:
    """Context of `quality/known.html`. `results` are the newest report's, by task."""

    project: Project
    tasks: Sequence[Line]
    results: dict[UUID, GoldLine]
    candidates: Sequence[Candidate]
    trials: Sequence[Member]
    may_change: bool


class TaskForm(FormModel):
    """What a task with a known answer is used for, and whether it is handed out."""

    purpose: Literal["gold", "screening"]
    state: Literal["open", "closed"]


class PurposeForm(FormModel):
    """What a new task with a known answer is for."""

    purpose: Literal["gold", "screening"] = "gold"


class TrialForm(FormModel):
    """What a reviewer decides about somebody's trial."""

    state: Literal["active", "rejected", "screening"]


@router.get("/{project_id}/quality/known")
def show(request: Request, project_id: UUID, user: ReviewerUser, session: SessionDep) -> Response:
    """Show the tasks with known answers and the trials."""
    project = projects.get(session, project_id)
    body = quality.report(session, project.id).body
    page = KnownPage(
        project,
        references.listed(session, project.id),
        quality_words.gold(body) if body else {},
        references.candidates(session, project.id),
        [member for member in memberships.listed(session, project.id) if _was_on_trial(member)],
        user.role == "admin",
    )
    return render(request, "quality/known.html", page)


@router.post("/{project_id}/quality/known/{task_id}")
def change(
    project_id: UUID,
    task_id: UUID,
    user: ReviewerUser,
    session: SessionDep,
    submitted: Annotated[Submitted[TaskForm], Depends(form_of(TaskForm))],
) -> Response:
    """Use a task with a known answer for something else, or hand it out no more."""
    project = projects.get(session, project_id)
    if submitted.data is None:
        raise InvalidInputError("Choose what the task is used for.")
    references.change(session, project, user, task_id, purpose=submitted.data.purpose, state=submitted.data.state)
    return redirect(f"/projects/{project.id}/quality/known", done="known-changed")


@router.get("/{project_id}/quality/known/new/{task_id}")
def show_new(request: Request, project_id: UUID, task_id: UUID, user: ReviewerUser, session: SessionDep) -> Response:
    """Show a task on the reviewer's board, so that their ranking becomes its known answer."""
    project = projects.get(session, project_id)
    return case_page(request, _new(project, adjudications.bare_case(session, project, task_id, user)))


@router.post("/{project_id}/quality/known/new/{task_id}/ranking")
def make(
    request: Request, project_id: UUID, task_id: UUID, user: ReviewerUser, session: SessionDep, sent: SentBoard
) -> Response:
    """Make the task one with a known answer."""
    project = projects.get(session, project_id)
    try:
        case = adjudications.bare_case(session, project, task_id, user)
        judgement = judgements.judge(sent.fields, case.order, case.guidelines.questions)
        references.create(session, task_id, user, judgement.groups, "gold")
    except (InvalidInputError, ConflictError) as error:
        return refused(
            request,
            error,
            lambda: _new(project, adjudications.bare_case(session, project, task_id, user, filled=sent.fields)),
        )
    return gone_on(request, f"/projects/{project.id}/quality/known", "known-made")


@router.post("/{project_id}/quality/known/new/{task_id}/verdict")
def make_from_verdict(
    project_id: UUID,
    task_id: UUID,
    user: ReviewerUser,
    session: SessionDep,
    submitted: Annotated[Submitted[PurposeForm], Depends(form_of(PurposeForm))],
) -> Response:
    """Make a task with a known answer from one that is adjudicated."""
    project = projects.get(session, project_id)
    purpose: Purpose = submitted.data.purpose if submitted.data else "gold"
    groups = adjudications.verdict_groups(session, project, task_id)
    references.create(session, task_id, user, groups, purpose)
    return redirect(f"/projects/{project.id}/quality/known", done="known-made")


@router.post("/{project_id}/quality/trials/{user_id}")
def decide_trial(
    project_id: UUID,
    user_id: UUID,
    user: ReviewerUser,
    session: SessionDep,
    submitted: Annotated[Submitted[TrialForm], Depends(form_of(TrialForm))],
) -> Response:
    """Let somebody in, turn them down, or put them on trial, whatever their agreement was."""
    project = projects.get(session, project_id)
    if submitted.data is None:
        raise InvalidInputError("Choose what to do: let in, turn down or put on trial.")
    memberships.set_state(session, project, user_id, user, submitted.data.state)
    return redirect(f"/projects/{project.id}/quality/known", done="trial-decided")


def _new(project: Project, case: adjudications.Case) -> CasePage:
    return CasePage(project, case, f"/projects/{project.id}/quality/known/new/{case.task_id}", is_reference=True)


def _was_on_trial(member: Member) -> bool:
    return member.state in ("screening", "rejected") or member.score is not None
