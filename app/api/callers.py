"""Who calls the REST API: the token in the Authorization header, and nothing else. Cookies and query are not read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.auth import guard
from app.db import SessionDep
from app.errors import NotSignedInError
from app.services.accounts import tokens
from app.services.accounts.tokens import Caller

_bearer = HTTPBearer(
    auto_error=False, scheme_name="token", description="A token from the page “API tokens”: pkt_…", bearerFormat="pkt"
)


@guard
def caller(session: SessionDep, sent: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> Caller:
    """Return the token's rights; raise `NotSignedInError` without a good token."""
    if sent is None:
        raise NotSignedInError("Send a token of this server in the header Authorization: Bearer pkt_…")
    return tokens.authenticate(session, sent.credentials)


def _with_scope(scope: str) -> Callable[[Caller], Caller]:
    @guard
    def has_scope(found: Annotated[Caller, Depends(caller)]) -> Caller:
        found.require(scope)
        return found

    return has_scope


AnyCaller = Annotated[Caller, Depends(caller)]
ExportCaller = Annotated[Caller, Depends(_with_scope("export:read"))]
PeopleCaller = Annotated[Caller, Depends(_with_scope("people:read"))]
ImportCaller = Annotated[Caller, Depends(_with_scope("import:write"))]
TasksCaller = Annotated[Caller, Depends(_with_scope("tasks:write"))]
SnapshotsCaller = Annotated[Caller, Depends(_with_scope("snapshots:write"))]
RunsCaller = Annotated[Caller, Depends(_with_scope("runs:read"))]
RunsWriter = Annotated[Caller, Depends(_with_scope("runs:write"))]
SchedulesCaller = Annotated[Caller, Depends(_with_scope("schedules:write"))]
ModelsCaller = Annotated[Caller, Depends(_with_scope("models:write"))]
