"""The page of what is behind a model, and the same as a JSON file."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from fastapi import Request
from starlette.responses import JSONResponse, Response

from app.auth import ReviewerUser, page_router
from app.db import SessionDep
from app.models import ModelVersion, Project
from app.services.evaluation import lineage
from app.services.evaluation.lineage import Chain
from app.services.projects import projects
from app.services.training import registry
from app.templating import render

router = page_router("/models")


@dataclass(frozen=True)
class LineagePage:
    """Context of `evaluations/lineage.html`."""

    project: Project
    model: ModelVersion
    chain: Chain


@router.get("/{model_id}/lineage")
def show(request: Request, session: SessionDep, _user: ReviewerUser, model_id: UUID) -> Response:
    """Show every run, snapshot and labeler behind a model."""
    model = registry.get(session, model_id)
    page = LineagePage(projects.get(session, model.project_id), model, lineage.chain(session, model))
    return render(request, "evaluations/lineage.html", page)


@router.get("/{model_id}/lineage.json")
def download(session: SessionDep, _user: ReviewerUser, model_id: UUID) -> Response:
    """Send the same with the id of every ranking."""
    model = registry.get(session, model_id)
    headers = {"Content-Disposition": f'attachment; filename="lineage-{model.name}.json"'}
    return JSONResponse(lineage.as_json(session, model), headers=headers)
