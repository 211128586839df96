"""The admin's page of people: invite, revoke, change roles, tag, disable and enable."""

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
from app.errors import ConflictError, InvalidInputError
from app.forms import FormModel, Submitted, blank, form_of
from app.models import Invitation, User
from app.models.accounts import ROLES
from app.services.accounts import accounts
from app.templating import redirect, render

router = page_router("/people")

Role = Literal["labeler", "reviewer", "admin"]


class InviteForm(FormModel):
    """What an invitation takes."""

    email: str = Field(min_length=1, max_length=254)
    role: Role


class RoleForm(FormModel):
    """The new role of a user."""

    role: Role


class TagsForm(FormModel):
    """What a person can judge."""

    tags: str = Field(default="", max_length=1000)


@dataclass(frozen=True)
class NewLink:
    """An invitation just made. Its link is on this page and nowhere else."""

    email: str
    url: str
    ends: datetime


@dataclass(frozen=True)
class PeoplePage:
    """Context of `people/people.html`."""

    users: Sequence[User]
    invitations: Sequence[Invitation]
    roles: Sequence[str]
    form: Submitted[InviteForm]
    new_link: NewLink | None


@router.get("")
def show_people(request: Request, session: SessionDep, _admin: AdminUser) -> Response:
    """List accounts and open invitations."""
    return _page(request, session, blank(role="labeler"))


@router.post("/invitations")
def invite(
    request: Request,
    session: SessionDep,
    admin: AdminUser,
    submitted: Annotated[Submitted[InviteForm], Depends(form_of(InviteForm))],
) -> Response:
    """Create an invitation and show its link, once. No mail is sent: the admin hands the link over."""
    if submitted.data is None:
        return _page(request, session, submitted, status=422)
    try:
        with session.begin_nested():
            token, ends = accounts.invite(session, admin, submitted.data.email, submitted.data.role)
    except (InvalidInputError, ConflictError) as error:
        return _page(request, session, submitted.refused(error, "email"), status=error.status)
    link = NewLink(submitted.data.email, str(request.url_for("show_invitation", token=token)), ends)
    return _page(request, session, blank(role=submitted.data.role), link)


@router.post("/invitations/{invitation_id}/revoke")
def revoke(session: SessionDep, admin: AdminUser, invitation_id: UUID) -> Response:
    """End an open invitation."""
    accounts.revoke_invitation(session, admin, invitation_id)
    return redirect("/people", done="invitation-revoked")


@router.post("/{user_id}/role")
def change_role(
    session: SessionDep,
    admin: AdminUser,
    user_id: UUID,
    submitted: Annotated[Submitted[RoleForm], Depends(form_of(RoleForm))],
) -> Response:
    """Give a user another role."""
    if submitted.data is None:
        raise InvalidInputError("Choose one of the roles labeler, reviewer and admin.")
    accounts.change_role(session, admin, user_id, submitted.data.role)
    return redirect("/people", done="role-changed")


@router.post("/{user_id}/tags")
def set_tags(
    session: SessionDep,
    admin: AdminUser,
    user_id: UUID,
    submitted: Annotated[Submitted[TagsForm], Depends(form_of(TagsForm))],
) -> Response:
    """Say what a person can judge."""
    if submitted.data is None:
        raise InvalidInputError("Shorten the tags: all of them together have at most 1000 characters.")
    accounts.set_tags(session, admin, user_id, submitted.data.tags)
    return redirect("/people", done="tags-saved")


@router.post("/{user_id}/disable")
def disable(session: SessionDep, admin: AdminUser, user_id: UUID) -> Response:
    """Disable a user, signing them out everywhere."""
    accounts.set_disabled(session, admin, user_id, disabled=True)
    return redirect("/people", done="user-disabled")


@router.post("/{user_id}/enable")
def enable(session: SessionDep, admin: AdminUser, user_id: UUID) -> Response:
    """Let a disabled user in again."""
    accounts.set_disabled(session, admin, user_id, disabled=False)
    return redirect("/people", done="user-enabled")


def _page(
    request: Request,
    session: SessionDep,
    form: Submitted[InviteForm],
    new_link: NewLink | None = None,
    *,
    status: int = 200,
) -> Response:
    page = PeoplePage(accounts.list_users(session), accounts.open_invitations(session), ROLES, form, new_link)
    return render(request, "people/people.html", page, status)
