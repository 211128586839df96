"""REST API, version 1: the versions of models that a project has, and which of them is in use."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.responses import Response

from app.api.callers import ModelsCaller, RunsCaller, RunsProject
from app.api.once import OnceDep
from app.api.problems import PROBLEMS, WRITES
from app.api.schemas import Closed, Page, PageQuery, example, page
from app.db import SessionDep
from app.services.accounts import tokens
from app.services.api import training
from app.services.evaluation import promotions
from app.services.training import registry

router = APIRouter(prefix="/api/v1", responses=PROBLEMS, tags=["models"])

Kind = Literal["policy", "reward"]
State = Literal["candidate", "promoted", "retired"]


class ModelOut(Closed):
    """A model that can be sampled from, trained further or score answers. Where its files are stays on the server."""

    model_config = example(
        {
            "id": "0198c0de-0000-7000-8000-000000000012",
            "project_id": "0198c0de-0000-7000-8000-000000000001",
            "name": "dpo-3",
            "kind": "policy",
            "method": "dpo",
            "state": "candidate",
            "parent_id": "0198c0de-0000-7000-8000-000000000013",
            "run_id": "0198c0de-0000-7000-8000-000000000011",
            "snapshot_id": "0198c0de-0000-7000-8000-000000000004",
            "metrics": {"accuracy": 0.71},
            "promoted_at": None,
            "created_at": "2026-11-02T09:00:00Z",
        }
    )
    id: UUID
    project_id: UUID
    name: str
    kind: Kind
    method: str
    state: State
    parent_id: UUID | None
    run_id: UUID | None
    snapshot_id: UUID | None
    metrics: dict[str, Any]
    promoted_at: datetime | None
    created_at: datetime


class ModelsQuery(PageQuery):
    """Which models."""

    kind: Kind | None = None
    state: State | None = None


@router.get("/projects/{project_id}/models")
def list_models(session: SessionDep, project: RunsProject, asked: Annotated[ModelsQuery, Query()]) -> Page[ModelOut]:
    """List a project's model versions."""
    return page(
        asked,
        ModelOut,
        lambda part: training.models(session, project.id, part, kind=asked.kind, state=asked.state),
        project.id,
    )


@router.get("/models/{model_id}")
def read_model(model_id: UUID, session: SessionDep, caller: RunsCaller) -> ModelOut:
    """Return a model version."""
    found = training.model(session, model_id)
    caller.require_project(found["project_id"])
    return ModelOut(**found)


@router.post("/models/{model_id}/promote", responses=WRITES, response_model=ModelOut)
def promote_model(model_id: UUID, session: SessionDep, caller: ModelsCaller, once: OnceDep) -> Response:
    """Make a policy the one in use; the one before it is retired. Promoting it again changes nothing."""
    caller.require_project(training.model(session, model_id)["project_id"])
    promotions.promote(session, registry.get(session, model_id), tokens.maker(session, caller))
    return once.answer(ModelOut(**training.model(session, model_id)))
