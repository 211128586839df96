"""Who is asking: dependencies that find the signed-in user, check the role, and refuse forged requests.

Access is decided here, by dependencies on routes, never by the look of a path. `app.main` refuses to start with a
route that carries none of the guards below and is not on its list of public routes.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request
from sqlalchemy.orm import Session
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, Response

from app.db import SessionDep
from app.errors import ForbiddenError, NotSignedInError, StaleFormError
from app.models import User, WebSession
from app.services.accounts import access
from app.settings import get_settings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_RANK = {"labeler": 0, "reviewer": 1, "admin": 2}

_FORGED = "This request did not come from one of our own pages. Open the page again and send it from there."
_STALE = "This page was opened before you last signed in. Reload it and send it again."

GUARDS: set[Callable[..., Any]] = set()
"""Dependencies that turn strangers away. `guard` adds to it, `app.main` reads it when it starts."""

F = TypeVar("F", bound=Callable[..., Any])


def guard(dependency: F) -> F:
    """Mark a dependency as one that refuses whoever may not pass."""
    GUARDS.add(dependency)
    return dependency


def cookie_name() -> str:
    """Return the session cookie's name; behind HTTPS its prefix ties it to this host, path / and Secure."""
    return "__Host-plackett" if get_settings().secure_cookies else "plackett_session"


def set_session_cookie(response: Response, token: str) -> None:
    """Hand the browser its session token: out of reach of scripts, not sent along with foreign requests."""
    settings = get_settings()
    response.set_cookie(
        cookie_name(),
        token,
        max_age=settings.session_absolute_days * 24 * 3600,
        path="/",
        secure=settings.secure_cookies,
        httponly=True,
        samesite="lax",
    )


def clear_session_cookie(response: Response) -> None:
    """Take the session cookie back."""
    response.delete_cookie(cookie_name(), path="/", secure=get_settings().secure_cookies, httponly=True, samesite="lax")


def current_session(request: Request, session: SessionDep) -> WebSession | None:
    """Return the live session this browser holds, with its user, or None."""
    return recognise(request, session, request.cookies.get(cookie_name()))


def recognise(request: Request, session: Session, token: str | None) -> WebSession | None:
    """Return the live session of a token, or None, and let the page that is rendered next know whose it is."""
    found = access.find_session(session, token) if token else None
    # The layout and the error pages read these, even after a rollback; they must not need the database again.
    request.state.viewer = access.viewer_of(found.user) if found else None
    request.state.csrf_token = found.csrf_token if found else None
    return found


CurrentSession = Annotated[WebSession | None, Depends(current_session)]


def current_user(web_session: CurrentSession) -> User | None:
    """Return the signed-in user, or None for a stranger. For pages that serve both."""
    return web_session.user if web_session else None


MaybeUser = Annotated[User | None, Depends(current_user)]


@guard
def signed_in(user: MaybeUser) -> User:
    """Return the signed-in user, whatever the role; raise NotSignedInError for a stranger."""
    if user is None:
        raise NotSignedInError("Please sign in first. If you were signed in, your session has ended.")
    return user


def require_role(role: str) -> Callable[[User], User]:
    """Return a dependency that lets `role` and the roles above it pass."""

    @guard
    def has_role(user: SignedIn) -> User:
        if _RANK[user.role] < _RANK[role]:
            raise ForbiddenError("Your account may not open this page. Ask an admin if you need it.")
        return user

    return has_role


SignedIn = Annotated[User, Depends(signed_in)]
ReviewerUser = Annotated[User, Depends(require_role("reviewer"))]
AdminUser = Annotated[User, Depends(require_role("admin"))]


def check_same_origin(request: Request) -> None:
    """Refuse an unsafe request that a browser says another site has caused (fetch metadata and Origin).

    A client that sends neither header is no browser and holds no one's cookie by accident.
    """
    if request.method in SAFE_METHODS:
        return
    if not comes_from_here(request.headers):
        raise ForbiddenError(_FORGED)


def comes_from_here(headers: Headers) -> bool:
    """Return whether the browser's own words about the request's source allow it."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    # Only host and port are compared: behind a proxy that ends TLS the scheme seen here is another one.
    return origin is None or (origin != "null" and urlsplit(origin).netloc == headers.get("host"))


async def check_csrf(
    request: Request, _same_origin: Annotated[None, Depends(check_same_origin)], web_session: CurrentSession
) -> None:
    """Refuse an unsafe request without this session's token, sent as header X-CSRF-Token or field csrf_token."""
    if request.method in SAFE_METHODS or web_session is None:
        return  # A stranger has no session to abuse; the route's guard refuses them.
    sent = request.headers.get("x-csrf-token")
    if sent is None:
        field = (await request.form()).get("csrf_token")
        sent = field if isinstance(field, str) else ""
    if not hmac.compare_digest(sent.encode(), web_session.csrf_token.encode()):
        raise StaleFormError(_STALE)


def page_router(prefix: str = "") -> APIRouter:
    """Return a router for pages: HTML, not part of the API's description, every unsafe route checked for forgery."""
    return APIRouter(
        prefix=prefix,
        include_in_schema=False,
        default_response_class=HTMLResponse,
        dependencies=[Depends(check_csrf)],
    )


def public_page_router(prefix: str = "") -> APIRouter:
    """Return a router for the pages before sign-in; with no session there is no token, so the origin decides."""
    return APIRouter(
        prefix=prefix,
        include_in_schema=False,
        default_response_class=HTMLResponse,
        dependencies=[Depends(check_same_origin)],
    )


def local_path(target: str | None, default: str = "/") -> str:
    """Return `target` if it is a path on this site, else `default`. Keeps `next` from leading elsewhere."""
    if target is None or not target.startswith("/") or target.startswith("//"):
        return default
    # Browsers read a backslash as a slash and drop control characters; neither belongs into a path of ours.
    if "\\" in target or any(ord(character) < 33 or ord(character) == 127 for character in target):
        return default
    return target
