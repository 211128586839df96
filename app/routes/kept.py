"""Answers that were sent with a session that had ended, from a browser without JavaScript: kept through signing in.

Nothing is stored on the way: the answer travels in the pages themselves, as one hidden field of the sign-in form, and
then as the fields of a form with the new token and one button that sends it. Only the forms of a labeler's task are
carried, only from our own pages, and never a password.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from fastapi import Request
from pydantic import TypeAdapter, ValidationError
from starlette.responses import Response

from app.auth import comes_from_here
from app.errors import InvalidInputError
from app.services.labeling.drafts import MAX_CHARACTERS, MAX_FIELDS
from app.templating import is_htmx, render

CARRIED = re.compile(r"/work/assignments/[0-9a-f-]{36}/(ranking|demonstration|flag)")
"""The addresses whose forms hold work that would be lost."""

Fields = list[tuple[str, str]]
_FIELDS = TypeAdapter(Fields)


@dataclass(frozen=True)
class KeptPage:
    """Context of `auth/kept.html`: where the fields go, and those texts among them that a person has written."""

    address: str
    fields: Fields
    written: tuple[str, ...]


async def sent(request: Request) -> Fields | None:
    """Return the form that a labeler's refused request carried; None when it is none, or more than can be kept."""
    is_theirs = request.method == "POST" and CARRIED.fullmatch(request.url.path) and comes_from_here(request.headers)
    if not is_theirs or is_htmx(request):
        return None  # With JavaScript the page itself still holds everything.
    form = await request.form()
    fields = [
        (name, value)
        for name, value in form.multi_items()
        if isinstance(value, str) and name != "csrf_token" and "password" not in name
    ]
    size = sum(len(name) + len(value) for name, value in fields)
    return fields if 0 < len(fields) <= MAX_FIELDS and size <= MAX_CHARACTERS else None


def as_text(fields: Fields) -> str:
    """Return fields as the one hidden field of the sign-in page; `page` reads it."""
    return json.dumps(fields, ensure_ascii=False)


def page(request: Request, address: str, fields: Fields | str, status: int = 200) -> Response:
    """Return the page that holds an answer ready to be sent; raise `InvalidInputError` for what is no such answer."""
    if isinstance(fields, str):
        try:
            fields = _FIELDS.validate_json(fields)
        except ValidationError:
            raise InvalidInputError("What was kept cannot be read any more. Open the task again.") from None
    if not CARRIED.fullmatch(address):
        raise InvalidInputError("What was kept belongs to no task. Open the task again.")
    written = tuple(
        value for name, value in fields if value.strip() and (name in ("text", "reason", "note") or name[:5] == "edit_")
    )
    return render(request, "auth/kept.html", KeptPage(address, fields, written), status)
