"""Pages of signing in and out, of redeeming an invitation, and of one's own account."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app import auth
from app.auth import MaybeUser, SignedIn, page_router, public_page_router
from app.db import SessionDep, transaction
from app.error_pages import on_expected
from app.errors import InvalidInputError, NotSignedInError
from app.forms import FormModel, Secret, Submitted, blank, form_of
from app.routes import kept
from app.services.accounts import access, accounts, passwords
from app.templating import redirect, render

pages = page_router()
public = public_page_router()
router = APIRouter()

_USER_AGENT = "user-agent"


class SignInForm(FormModel):
    """What the sign-in page asks."""

    email: str = Field(min_length=1, max_length=254)
    password: Secret
    next: str = ""
    kept: str = ""
    kept_for: str = ""


class RedeemForm(FormModel):
    """What an invited person enters."""

    name: str = Field(min_length=1, max_length=80)
    password: Secret


class PasswordForm(FormModel):
    """What changing one's password takes."""

    current_password: Secret
    new_password: Secret


@dataclass(frozen=True)
class SignInPage:
    """Context of `auth/sign_in.html`."""

    form: Submitted[SignInForm]
    keeps: bool = False


@dataclass(frozen=True)
class RedeemPage:
    """Context of `auth/invite.html`."""

    email: str
    role: str
    shortest: int
    action: str
    form: Submitted[RedeemForm]


@dataclass(frozen=True)
class AccountPage:
    """Context of `auth/account.html`."""

    shortest: int
    sessions: int
    form: Submitted[PasswordForm]


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


@public.get("/sign-in")
def show_sign_in(request: Request, user: MaybeUser, next: str = "") -> Response:  # noqa: A002  (the parameter's name in URLs)
    """Show the sign-in form; who is signed in already goes on."""
    if user:
        return redirect(auth.local_path(next))
    return render(request, "auth/sign_in.html", SignInPage(blank(next=auth.local_path(next))))


@public.post("/sign-in")
async def sign_in(
    request: Request, submitted: Annotated[Submitted[SignInForm], Depends(form_of(SignInForm))]
) -> Response:
    """Check the password and open a session.

    Three steps, so that neither a thread nor a database connection is held while the hash waits for its turn.
    """
    keeps = bool(submitted.values.get("kept"))
    if submitted.data is None:
        return render(request, "auth/sign_in.html", SignInPage(submitted, keeps), 422)
    form = submitted.data
    attempt = await run_in_threadpool(_admit, form.email, _address(request))
    fits = await passwords.matches_waiting(attempt.password_hash, form.password)
    try:
        token = await run_in_threadpool(_finish, attempt, fits, request)
    except NotSignedInError as error:
        return render(request, "auth/sign_in.html", SignInPage(submitted.refused(error), keeps), error.status)
    if keeps:
        await run_in_threadpool(_recognise, request, token)
        response = kept.page(request, form.kept_for, form.kept)
    else:
        response = redirect(auth.local_path(form.next))
    auth.set_session_cookie(response, token)
    return response


async def on_not_signed_in(request: Request, error: Exception) -> Response:
    """Answer a stranger; who sent work with a session that has ended signs in again and finds it kept."""
    fields = await kept.sent(request)
    if fields is None:
        return on_expected(request, error)
    form = blank(next=request.url.path.rpartition("/")[0], kept=kept.as_text(fields), kept_for=request.url.path)
    return render(request, "auth/sign_in.html", SignInPage(form, keeps=True), 401)


async def on_stale_form(request: Request, error: Exception) -> Response:
    """Answer a form with an old token; who sent work with it, and has signed in since, finds it kept."""
    fields = await kept.sent(request)
    return on_expected(request, error) if fields is None else kept.page(request, request.url.path, fields, 403)


def _recognise(request: Request, token: str) -> None:
    with transaction() as session:
        auth.recognise(request, session, token)


def _admit(email: str, address: str) -> access.Attempt:
    with transaction() as session:
        return access.admit_attempt(session, email, address)


def _finish(attempt: access.Attempt, fits: bool, request: Request) -> str:
    with transaction() as session:
        return access.finish_attempt(
            session,
            attempt,
            password_fits=fits,
            user_agent=request.headers.get(_USER_AGENT, ""),
            previous_token=request.cookies.get(auth.cookie_name()),
        )


@pages.post("/sign-out")
def sign_out(request: Request, session: SessionDep, _user: SignedIn) -> Response:
    """End this session, and have the browser forget what it kept of our pages."""
    access.end_session(session, request.cookies.get(auth.cookie_name(), ""))
    return _signed_out("signed-out")


@pages.post("/account/sign-out-everywhere")
def sign_out_everywhere(session: SessionDep, user: SignedIn) -> Response:
    """End all of this person's sessions."""
    access.end_all_sessions(session, user.id)
    return _signed_out("signed-out-everywhere")


def _signed_out(done: str) -> Response:
    response = redirect("/sign-in", done=done)
    auth.clear_session_cookie(response)
    response.headers["Clear-Site-Data"] = '"cache", "storage"'
    return response


@public.get("/invite/{token}")
def show_invitation(request: Request, session: SessionDep, token: str) -> Response:
    """Show the form that turns an invitation into an account."""
    return _invitation_page(request, session, token, blank())


@public.post("/invite/{token}")
def redeem_invitation(
    request: Request,
    session: SessionDep,
    token: str,
    submitted: Annotated[Submitted[RedeemForm], Depends(form_of(RedeemForm))],
) -> Response:
    """Create the account and sign its owner in."""
    if submitted.data is None:
        return _invitation_page(request, session, token, submitted, 422)
    try:
        with session.begin_nested():
            user = accounts.redeem(session, token, submitted.data.name, submitted.data.password)
    except InvalidInputError as error:
        return _invitation_page(request, session, token, submitted.refused(error, "password"), error.status)
    response = redirect("/", done="welcome")
    auth.set_session_cookie(response, access.open_session(session, user, request.headers.get(_USER_AGENT, "")))
    return response


def _invitation_page(
    request: Request, session: SessionDep, token: str, form: Submitted[RedeemForm], status: int = 200
) -> Response:
    invitation = accounts.find_invitation(session, token)
    page = RedeemPage(invitation.email, invitation.role, passwords.MIN_LENGTH[invitation.role], request.url.path, form)
    return render(request, "auth/invite.html", page, status)


@pages.get("/account")
def show_account(request: Request, session: SessionDep, user: SignedIn) -> Response:
    """Show one's own account."""
    return _account_page(request, session, user, blank())


@pages.post("/account/password")
def change_password(
    request: Request,
    session: SessionDep,
    user: SignedIn,
    submitted: Annotated[Submitted[PasswordForm], Depends(form_of(PasswordForm))],
) -> Response:
    """Set a new password, which signs out every other browser; this one gets a new session."""
    if submitted.data is None:
        return _account_page(request, session, user, submitted, 422)
    try:
        accounts.change_password(session, user, submitted.data.current_password, submitted.data.new_password)
    except InvalidInputError as error:
        return _account_page(request, session, user, submitted.refused(error), error.status)
    response = redirect("/account", done="password-changed")
    auth.set_session_cookie(response, access.open_session(session, user, request.headers.get(_USER_AGENT, "")))
    return response


def _account_page(
    request: Request, session: SessionDep, user: SignedIn, form: Submitted[PasswordForm], status: int = 200
) -> Response:
    page = AccountPage(passwords.MIN_LENGTH[user.role], access.count_sessions(session, user.id), form)
    return render(request, "auth/account.html", page, status)


router.include_router(public)
router.include_router(pages)
