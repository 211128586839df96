"""POSTs that are safe to repeat: the header Idempotency-Key, and the one way in which a POST answers.

A route takes `once: OnceDep` and ends with `return once.answer(...)`. A replay never reaches the route.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request
from pydantic import BaseModel
from sqlalchemy.orm import Session
from starlette.responses import Response

from app.api.callers import AnyCaller
from app.db import SessionDep
from app.errors import WrongMediaError
from app.services.accounts.tokens import Caller
from app.services.api import repeats
from app.services.api.repeats import Answer

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern="^[!-~]{1,200}$",
        description="Made by the client, new for each request; a UUID will do. The same request with the same key is "
        "done once, and answered the same for 24 hours.",
    ),
]


class ReplayError(Exception):
    """No failure: this request was answered before, and is answered the same again."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("This request was answered before.")
        self.answer = answer


@dataclass(frozen=True)
class Once:
    """Answers a POST, and keeps the answer if the request has a key."""

    session: Session
    caller: Caller
    key: str | None
    request_sha256: bytes

    def answer(self, shown: BaseModel, status: int = 200, **headers: str) -> Response:
        """Return the answer; in the names of headers an underscore stands for a hyphen."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = Answer(status, named, shown.model_dump_json())
        if self.key is not None:
            repeats.keep(self.session, self.caller.token_id, self.key, self.request_sha256, answer)
        return as_response(answer)


async def request_sha256(request: Request) -> bytes:
    """Return what tells one request from another: method, address and body, each with its length before it."""
    parts = (request.method.encode(), request.scope["path"].encode(), request.scope["query_string"])
    digest = hashlib.sha256()
    for part in (*parts, await request.body()):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


async def json_only(request: Request) -> None:
    """Refuse a body of another kind with 415; a request without a body has no kind."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and await request.body():
        raise WrongMediaError("Send the body as JSON, with the header Content-Type: application/json.")


def once(
    session: SessionDep,
    caller: AnyCaller,
    sha256: Annotated[bytes, Depends(request_sha256)],
    _json: Annotated[None, Depends(json_only)],
    key: Key = None,
) -> Once:
    """Return what answers this request; raise `ReplayError` with the answer that it got before."""
    if key is not None:
        before = repeats.earlier(session, caller.token_id, key, sha256)
        if before is not None:
            raise ReplayError(before)
    return Once(session, caller, key, sha256)


OnceDep = Annotated[Once, Depends(once)]


def on_replay(_request: Request, error: Exception) -> Response:
    """Answer as before, and say that it was before."""
    assert isinstance(error, ReplayError)  # noqa: S101  (the handler is registered for this class)
    response = as_response(error.answer)
    response.headers["Idempotency-Replayed"] = "true"
    return response


def as_response(answer: Answer) -> Response:
    """Return an answer as it is sent."""
    return Response(answer.body, answer.status, answer.headers, "application/json")
