"""Every failure as one clear sentence: a page, a fragment for htmx, or problem+json (RFC 9457) for the API."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi.exceptions import RequestValidationError
from psycopg import Error as PostgresError
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.errors import InvalidInputError, NotSignedInError, PlackettError, TooManyAttemptsError
from app.forms import sentence
from app.templating import is_htmx, redirect, render

logger = logging.getLogger(__name__)

RETRY_SECONDS = 5
BUSY = (
    "The database does not answer just now. Nothing was lost; your text is still on this page. Try again in a moment."
)
BROKEN = (
    "Something went wrong on our side. Nothing was stored. "
    "Try again; if it happens again, give an admin the request number."
)
_COLLIDES = "This collides with something that was stored a moment ago. Reload the page and look before you try again."

# What Postgres says when it is stopping, full or waited too long, and when it chose one of two transactions: all of it
# passes, and none of it has stored anything. Class 08 is the connection, 53 resources, 57 an operator or a timeout.
_PASSING_CLASSES = ("08", "53", "57")
_PASSING_CODES = frozenset({"40001", "40P01", "55P03", "25P03"})

_SENTENCES = {
    400: "The request could not be read. Reload the page and try again.",
    403: "You may not do this.",
    404: "There is nothing at this address. It may have been moved, or belong to somebody else.",
    405: "This address does not take that kind of request.",
    413: "This is more than the server takes at once. Send less, or split it into several parts.",
    415: "This kind of content is not taken here.",
    422: "Something in the request will not do.",
}


@dataclass(frozen=True)
class ErrorPage:
    """The context of `errors/error.html` and its fragment."""

    status: int
    title: str
    message: str
    details: tuple[str, ...]
    sign_in: str | None


def error_response(
    request: Request,
    status: int,
    message: str,
    *,
    details: tuple[str, ...] = (),
    headers: Mapping[str, str] | None = None,
    fields: tuple[dict[str, str], ...] = (),
) -> Response:
    """Return the failure in the form the client reads. Uses no database, so it works when that is what failed."""
    title = HTTPStatus(status).phrase
    if request.url.path.startswith("/api/"):
        problem: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": message}
        if details:
            problem["details"] = list(details)
        if fields:
            problem["errors"] = list(fields)
        problem["request_id"] = getattr(request.state, "request_id", "")
        return JSONResponse(problem, status, headers=headers, media_type="application/problem+json")
    sign_in = f"/sign-in?next={quote(request.url.path)}" if status == 401 and request.method == "GET" else None
    if status == 401 and sign_in is None:
        sign_in = "/sign-in"
    page = ErrorPage(status, title, message, details, sign_in)
    return render(
        request, "errors/_error.html" if is_htmx(request) else "errors/error.html", page, status, headers=headers
    )


def on_expected(request: Request, error: Exception) -> Response:
    """Answer for a PlackettError: its own status and sentence; a stranger who opens a page is led to sign in."""
    assert isinstance(error, PlackettError)  # noqa: S101  (the handler is registered for this class)
    headers: dict[str, str] = {}
    if isinstance(error, NotSignedInError):
        if request.url.path.startswith("/api/"):
            headers["WWW-Authenticate"] = "Bearer"
        elif request.method == "GET" and is_htmx(request):
            # A page that refreshes itself loads anew, and so leads to sign-in, instead of asking in vain for ever.
            headers["HX-Refresh"] = "true"
        elif request.method == "GET":
            target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return redirect("/sign-in" if target == "/" else f"/sign-in?next={quote(target, safe='')}")
    if isinstance(error, TooManyAttemptsError):
        headers["Retry-After"] = str(error.retry_after)
    elif error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_SECONDS)
    details = error.details if isinstance(error, InvalidInputError) else ()
    return error_response(request, error.status, error.message, details=details, headers=headers)


def on_http(request: Request, error: Exception) -> Response:
    """Answer for what the framework refuses: no such address, wrong method, unreadable body."""
    assert isinstance(error, HTTPException)  # noqa: S101  (the handler is registered for this class)
    message = _SENTENCES.get(error.status_code, HTTPStatus(error.status_code).phrase + ".")
    return error_response(request, error.status_code, message, headers=error.headers)


def on_invalid(request: Request, error: Exception) -> Response:
    """Answer for parameters and bodies that do not fit; never repeats what was sent, which may be secret."""
    assert isinstance(error, RequestValidationError)  # noqa: S101  (the handler is registered for this class)
    problems = error.errors()
    if all(problem["loc"][0] == "path" for problem in problems):
        return error_response(request, 404, _SENTENCES[404])
    fields = tuple(
        {
            "field": ".".join(str(part) for part in problem["loc"][1:]) or str(problem["loc"][0]),
            "message": sentence(problem["type"], problem.get("ctx", {}), problem["msg"]),
        }
        for problem in problems
    )
    if request.url.path.startswith("/api/"):
        return error_response(request, 422, _SENTENCES[422], fields=fields)
    return error_response(
        request, 422, _SENTENCES[422], details=tuple(f"{item['field']}: {item['message']}" for item in fields)
    )


def on_database(request: Request, error: Exception) -> Response:
    """Answer for Postgres: 503 for what passes by itself, 409 for a rule that a commit would have broken, else 500."""
    if is_passing(error):
        logger.warning("database unavailable: %s", type(getattr(error, "orig", error)).__name__)
        return error_response(request, 503, BUSY, headers={"Retry-After": str(RETRY_SECONDS)})
    if isinstance(error, IntegrityError):
        logger.warning("a constraint refused a change: %s", _constraint(error))
        return error_response(request, 409, _COLLIDES)
    raise error


def is_passing(error: Exception) -> bool:
    """Return whether this database error is one that goes away by itself, with nothing stored."""
    if isinstance(error, PoolTimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = error.orig.sqlstate if isinstance(error.orig, PostgresError) else None
    if state is None:  # No answer from a server at all: refused, reset, timed out.
        return error.connection_invalidated or type(error.orig).__name__ in ("OperationalError", "ConnectionTimeout")
    return state.startswith(_PASSING_CLASSES) or state in _PASSING_CODES


def _constraint(error: IntegrityError) -> str:
    name = error.orig.diag.constraint_name if isinstance(error.orig, PostgresError) else None
    return name or "unnamed"


HANDLERS: dict[int | type[Exception], Callable[[Request, Exception], Response]] = {
    PlackettError: on_expected,
    HTTPException: on_http,
    RequestValidationError: on_invalid,
    DBAPIError: on_database,
    PoolTimeoutError: on_database,
}
