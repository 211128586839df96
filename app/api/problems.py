"""What the API answers when it does not answer as asked: problem+json (RFC 9457)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class Problem(BaseModel):
    """What went wrong, after RFC 9457. `detail` is a sentence that names the remedy."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str


def _documented(*answers: tuple[int, str]) -> dict[int | str, dict[str, Any]]:
    schema = {"application/problem+json": {"schema": Problem.model_json_schema()}}
    return {status: {"description": text, "content": schema} for status, text in answers}


PROBLEMS = _documented(
    (401, "There is no token, or it is not good."),
    (403, "The token lacks the scope."),
    (404, "There is no such thing, or it belongs to a project that the token may not see."),
)
REFUSED = _documented((422, "A parameter, or what was sent, will not do; the detail says why."))
BUSY = _documented((503, "The database, or a free connection for exports, is not there just now. Try again."))
