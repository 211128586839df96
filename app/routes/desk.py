"""What a labeler finds beside their tasks: the guidelines and what is new in them, their own answers and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request
from starlette.responses import Response

from app.auth import SignedIn, page_router
from app.db import SessionDep
from app.errors import ForbiddenError, InvalidInputError
from app.forms import FormModel, Submitted, form_of
from app.models import Project
from app.services.evaluation import lineage
from app.services.evaluation.lineage import Trained
from app.services.labeling import my_answers
from app.services.labeling.my_answers import MyAnswers, MyNumbers
from app.services.projects import guideline_changes, guidelines, memberships, projects
from app.services.projects.guideline_changes import Piece
from app.services.projects.guidelines import Guideline, Unread
from app.templating import redirect, render

router = page_router("/work")


class ReadForm(FormModel):
    """Which version has been read."""

    version: int


@dataclass(frozen=True)
class GuidelinesPage:
    """Context of `labeling/guidelines.html`. `before` is the version read before, None for none or the same one."""

    project: Project
    current: Guideline
    unread: Unread | None
    before: Guideline | None
    pieces: Sequence[Piece]
    question_changes: Sequence[str]
    answers: Mapping[int, int]


@dataclass(frozen=True)
class MinePage:
    """Context of `labeling/mine.html`. `version` is the one filtered by, or None."""

    project: Project
    answers: MyAnswers
    numbers: MyNumbers
    by_version: Mapping[int, int]
    version: int | None
    may_change: bool
    trained: Sequence[Trained]


@router.get("/{project_id}/guidelines")
def show_guidelines(request: Request, project_id: UUID, user: SignedIn, session: SessionDep) -> Response:
    """Show the newest guidelines, and what is new since the version that the labeler has read."""
    project = projects.get(session, project_id)
    memberships.check_may_work(session, project, user)
    current = guidelines.current(session, project.id)
    unread = guidelines.unread(session, project.id, user)
    before = guidelines.numbered(session, project.id, unread.seen) if unread and unread.seen else None
    page = GuidelinesPage(
        project,
        current,
        unread,
        before,
        guideline_changes.of_text(before.body, current.body) if before else (),
        guideline_changes.of_questions(before.questions, current.questions) if before else (),
        my_answers.by_version(session, project.id, user),
    )
    return render(request, "labeling/guidelines.html", page)


@router.post("/{project_id}/guidelines")
def mark_read(
    project_id: UUID,
    user: SignedIn,
    session: SessionDep,
    form: Annotated[Submitted[ReadForm], Depends(form_of(ReadForm))],
) -> Response:
    """Note that the labeler has read the version that was before them, which may not be the newest any more."""
    if form.data is None:
        raise InvalidInputError("The form does not say which guidelines you have read. Reload the page.")
    project = projects.get(session, project_id)
    memberships.check_may_work(session, project, user)
    version = guidelines.numbered(session, project.id, form.data.version)
    guidelines.mark_read(session, project.id, user, version.version_id)
    if guidelines.unread(session, project.id, user):
        return redirect(f"/work/{project.id}/guidelines")
    return redirect("/work", done="guidelines-read")


@router.get("/{project_id}/mine")
def show_mine(
    request: Request,
    project_id: UUID,
    user: SignedIn,
    session: SessionDep,
    version: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
    before: UUID | None = None,
) -> Response:
    """Show the labeler's own answers and figures; also to who does not work here any more."""
    project = projects.get(session, project_id)
    by_version = my_answers.by_version(session, project.id, user)
    refusal = memberships.refusal(memberships.standing_of(session, project, user))
    if refusal and not by_version:
        raise ForbiddenError(refusal)
    page = MinePage(
        project,
        my_answers.page(session, project.id, user, version=version, before=before),
        my_answers.numbers(session, project.id, user),
        by_version,
        version,
        may_change=project.state != "archived",
        trained=lineage.trained_by(session, project.id, user),
    )
    return render(request, "labeling/mine.html", page)
