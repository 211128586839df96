"""Who calls the REST API, and the project they ask for: the token in the Authorization header says what they may.

Cookies and query are not read. A route takes a caller with a scope, a project that such a caller sees, or both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated
from uuid import UUID

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session

from app.auth import guard
from app.db import SessionDep
from app.errors import NotSignedInError
from app.models import Project
from app.services.accounts import tokens
from app.services.accounts.tokens import Caller
from app.services.projects import projects

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


def _project_for(scope: str) -> Callable[[UUID, Session, Caller], Project]:
    @guard
    def seen(project_id: UUID, session: SessionDep, found: Annotated[Caller, Depends(caller)]) -> Project:
        """Return the project that the address names; one that the token may not see is answered as one that is not."""
        found.require(scope)
        found.require_project(project_id)
        return projects.get(session, project_id)

    return seen


AnyCaller = Annotated[Caller, Depends(caller)]
ExportCaller = Annotated[Caller, Depends(_with_scope("export:read"))]
ImportCaller = Annotated[Caller, Depends(_with_scope("import:write"))]
TasksCaller = Annotated[Caller, Depends(_with_scope("tasks:write"))]
SnapshotsCaller = Annotated[Caller, Depends(_with_scope("snapshots:write"))]
RunsCaller = Annotated[Caller, Depends(_with_scope("runs:read"))]
RunsWriter = Annotated[Caller, Depends(_with_scope("runs:write"))]
SchedulesCaller = Annotated[Caller, Depends(_with_scope("schedules:write"))]
ModelsCaller = Annotated[Caller, Depends(_with_scope("models:write"))]

ExportProject = Annotated[Project, Depends(_project_for("export:read"))]
PeopleProject = Annotated[Project, Depends(_project_for("people:read"))]
ImportProject = Annotated[Project, Depends(_project_for("import:write"))]
TasksProject = Annotated[Project, Depends(_project_for("tasks:write"))]
SnapshotsProject = Annotated[Project, Depends(_project_for("snapshots:write"))]
RunsProject = Annotated[Project, Depends(_project_for("runs:read"))]
RunsWriterProject = Annotated[Project, Depends(_project_for("runs:write"))]
SchedulesProject = Annotated[Project, Depends(_project_for("schedules:write"))]
ModelsProject = Annotated[Project, Depends(_project_for("models:write"))]
