"""A reviewer's board: one ranking task with the form to rank it, shared by disagreements and known answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from starlette.responses import Response

from app.errors import InvalidInputError, PlackettError
from app.models import Project
from app.services.quality.adjudications import Case
from app.templating import is_htmx, redirect, render


@dataclass(frozen=True)
class CasePage:
    """Context of `quality/case.html`: a task on a reviewer's board, which sends to `address`.

    With `is_reference` the ranking becomes the known answer of a gold task, and the labelers' rankings are not shown.
    `skip` leads to the next task of the queue.
    """

    project: Project
    case: Case
    address: str
    is_reference: bool = False
    skip: str = ""
    error: str = ""


@dataclass(frozen=True)
class Board:
    """A sent board: the number of its form, and its other fields."""

    submit_id: UUID
    fields: dict[str, str]


async def sent_board(request: Request) -> Board:
    """Return what a board has sent; raise `InvalidInputError` when it is not one board's fields."""
    fields: dict[str, str] = {}
    for key, value in (await request.form()).multi_items():
        if key in fields or not isinstance(value, str):
            raise InvalidInputError("The form holds a field twice. Reload the page and send it again.")
        fields[key] = value
    fields.pop("csrf_token", None)
    try:
        return Board(UUID(fields.pop("submit_id", "")), fields)
    except ValueError:
        raise InvalidInputError("The form has lost its number. Reload the page and send it again.") from None


SentBoard = Annotated[Board, Depends(sent_board)]


def case_page(request: Request, page: CasePage, status: int = 200) -> Response:
    """Render a case: the whole page, or for htmx its part."""
    return render(request, "quality/_case.html" if is_htmx(request) else "quality/case.html", page, status)


def refused(request: Request, error: PlackettError, again: Callable[[], CasePage]) -> Response:
    """Show the case as it was filled in, with the reason; after a conflict htmx leaves the page as it is."""
    if is_htmx(request) and not isinstance(error, InvalidInputError):
        raise error
    return case_page(request, replace(again(), error=error.message), error.status)


def gone_on(request: Request, path: str, done: str) -> Response:
    """Lead to a page after a board was sent, also when htmx sent it."""
    answer = redirect(path, done=done)
    return Response(headers={"HX-Redirect": answer.headers["location"]}) if is_htmx(request) else answer
