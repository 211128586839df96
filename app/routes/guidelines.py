"""The guidelines of a project for those who run it: every version, and the editor of the text and its questions.

POST /projects/{id}/guidelines     body and the editor's fields (`app.services.projects.question_forms`)
                                   preset=NAME or rows=N: only fills the form in, nothing is stored
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Request
from starlette.responses import Response

from app.auth import AdminUser, ReviewerUser, page_router
from app.db import SessionDep
from app.errors import InvalidInputError
from app.forms import Submitted
from app.models import Project
from app.services.labeling import flags
from app.services.projects import guidelines, projects, question_forms, questions
from app.services.projects.guidelines import Guideline
from app.templating import redirect, render

router = page_router("/projects")

MORE_ROWS = 3
_UNKNOWN = "The form holds a field that this page does not have. Reload the page and try again."


@dataclass(frozen=True)
class GuidelinesPage:
    """Context of `projects/guidelines.html`. `rows` criteria can be filled in; `is_filled` says that none is stored."""

    project: Project
    versions: Sequence[Guideline]
    form: Submitted[Any]
    rows: int
    kinds: Mapping[str, str]
    asked: Mapping[str, str]
    presets: Mapping[str, str]
    is_filled: bool
    may_change: bool
    open_flags: int


async def sent_fields(request: Request) -> dict[str, str]:
    """Return the form's fields, without the token against forgery."""
    form = await request.form()
    return {key: value for key, value in form.items() if isinstance(value, str) and key != "csrf_token"}


@router.get("/{project_id}/guidelines")
def show_guidelines(request: Request, project_id: UUID, user: ReviewerUser, session: SessionDep) -> Response:
    """Show every version of the guidelines, and to an admin the editor."""
    project = projects.get(session, project_id)
    current = guidelines.current(session, project.id)
    values = {"body": current.body, **question_forms.filled(current.questions)}
    return _page(request, session, project, Submitted(values=values), may_change=user.role == "admin")


@router.post("/{project_id}/guidelines")
def revise_guidelines(
    request: Request,
    project_id: UUID,
    user: AdminUser,
    session: SessionDep,
    sent: Annotated[dict[str, str], Depends(sent_fields)],
) -> Response:
    """Store a new version, or fill the editor in and store nothing."""
    project = projects.get(session, project_id)
    preset, rows, body = sent.pop("preset", ""), sent.pop("rows", ""), sent.pop("body", "")
    if not all(map(question_forms.is_field, sent)):
        raise InvalidInputError(_UNKNOWN)
    if preset or rows:
        filled = question_forms.with_preset(sent, preset) if preset else sent
        wanted = int(rows) + MORE_ROWS if rows.isdecimal() and len(rows) < len("100") else 0
        form: Submitted[Any] = Submitted(values={"body": body, **filled})
        return _page(request, session, project, form, may_change=True, rows=wanted, is_filled=bool(preset))
    try:
        guidelines.revise(session, project, user, body, question_forms.read(sent) if sent else None)
    except InvalidInputError as error:
        refused: Submitted[Any] = Submitted(values={"body": body, **sent})
        return _page(request, session, project, refused.refused(error), may_change=True, status=error.status)
    return redirect(f"/projects/{project.id}/guidelines", done="guidelines-saved")


def _page(
    request: Request,
    session: SessionDep,
    project: Project,
    form: Submitted[Any],
    *,
    may_change: bool,
    rows: int = 0,
    is_filled: bool = False,
    status: int = 200,
) -> Response:
    page = GuidelinesPage(
        project,
        guidelines.versions(session, project.id),
        form,
        question_forms.rows_shown(form.values, rows),
        question_forms.KINDS,
        question_forms.ASKED,
        {name: label for name, (label, _) in questions.PRESETS.items()},
        is_filled,
        may_change,
        flags.count_open(session, project.id),
    )
    return render(request, "projects/guidelines.html", page, status)
