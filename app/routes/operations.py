"""The admin's page of operations: whether backups come back, what answers, and which workers are alive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastapi import Request
from starlette.responses import Response

from app.auth import AdminUser, page_router
from app.db import SessionDep
from app.models import Worker
from app.services import health
from app.services.accounts import backups
from app.services.accounts.backups import Standing
from app.services.training import workers
from app.templating import render

router = page_router("/operations")


@dataclass(frozen=True)
class OperationsPage:
    """Context of `operations/show.html`. `checks` are those of /readyz."""

    backups: Standing
    checks: Mapping[str, str]
    workers: Sequence[Worker]


@router.get("")
def show(request: Request, session: SessionDep, _admin: AdminUser) -> Response:
    """Show how this installation is doing."""
    page = OperationsPage(backups.standing(session), health.check().checks, workers.listed(session))
    return render(request, "operations/show.html", page)
