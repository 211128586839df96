"""The admin's page of API tokens: make one, see its text once, revoke it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Depends, Request
from pydantic import Field
from starlette.responses import Response

from app.auth import AdminUser, page_router
from app.db import SessionDep
from app.errors import InvalidInputError, NotFoundError
from app.forms import FormModel, Submitted, blank, form_of
from app.models import ApiToken, Project, User
from app.services.accounts import tokens
from app.services.projects import projects
from app.templating import redirect, render

router = page_router("/tokens")


class TokenForm(FormModel):
    """A new token. `scope_*` are check boxes."""

    name: str = Field(min_length=1, max_length=80)
    scope_export: bool = False
    scope_people: bool = False
    scope_import: bool = False
    scope_tasks: bool = False
    scope_snapshots: bool = False
    scope_runs: bool = False
    scope_queue: bool = False
    scope_schedules: bool = False
    scope_models: bool = False
    project_id: UUID | Literal[""] = ""
    days: int = Field(ge=1, le=tokens.MOST_DAYS)


FIELDS = {
    "scope_export": "export:read",
    "scope_people": "people:read",
    "scope_import": "import:write",
    "scope_tasks": "tasks:write",
    "scope_snapshots": "snapshots:write",
    "scope_runs": "runs:read",
    "scope_queue": "runs:write",
    "scope_schedules": "schedules:write",
    "scope_models": "models:write",
}
"""The check boxes of the form, and the scope that each stands for."""


@dataclass(frozen=True)
class TokensPage:
    """Context of `tokens/tokens.html`. `new_text` is a token just made, shown this once.

    `scopes` are check boxes: the field, what it allows in words, and the scope's name.
    """

    tokens: Sequence[tuple[ApiToken, User, str | None]]
    projects: Sequence[Project]
    form: Submitted[TokenForm]
    new_text: str
    now_ended: frozenset[UUID]
    scopes: Sequence[tuple[str, str, str]]


@router.get("")
def show(request: Request, session: SessionDep, _admin: AdminUser) -> Response:
    """List the tokens."""
    return _page(request, session, blank(days="90", scope_export="yes"))


@router.post("")
def create(
    request: Request,
    session: SessionDep,
    admin: AdminUser,
    submitted: Annotated[Submitted[TokenForm], Depends(form_of(TokenForm))],
) -> Response:
    """Make a token and show its text, once."""
    form = submitted.data
    if form is None:
        return _page(request, session, submitted, status=422)
    scopes = [scope for field, scope in FIELDS.items() if getattr(form, field)]
    try:
        _, text = tokens.create(
            session, admin, name=form.name, scopes=scopes, project_id=form.project_id or None, days=form.days
        )
    except (InvalidInputError, NotFoundError) as error:
        return _page(request, session, submitted.refused(error), status=error.status)
    return _page(request, session, blank(days="90", scope_export="yes"), text)


@router.post("/{token_id}/revoke")
def revoke(session: SessionDep, admin: AdminUser, token_id: UUID) -> Response:
    """End a token."""
    tokens.revoke(session, token_id, admin)
    return redirect("/tokens", done="token-revoked")


def _page(
    request: Request, session: SessionDep, form: Submitted[TokenForm], new_text: str = "", status: int = 200
) -> Response:
    page = TokensPage(
        tokens.listed(session),
        projects.listed(session),
        form,
        new_text,
        frozenset(tokens.ended(session)),
        [(field, tokens.SCOPES[scope], scope) for field, scope in FIELDS.items()],
    )
    return render(request, "tokens/tokens.html", page, status)
