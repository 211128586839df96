"""Pages of the registry: a project's models, one model with where it comes from, registering and promoting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from pydantic import Field
from starlette.responses import Response

from app.auth import AdminUser, ReviewerUser, page_router
from app.db import SessionDep
from app.errors import ConflictError, InvalidInputError
from app.forms import FormModel, Submitted, blank, form_of
from app.models import GateVerdict, ModelVersion, Project
from app.services.evaluation import gate, promotions
from app.services.evaluation.gate import Check
from app.services.projects import projects
from app.services.training import charts, registry
from app.services.training.registry import Lineage
from app.templating import redirect, render

router = page_router()


class RegisterForm(FormModel):
    """A base model: a folder on the server, or a hub id such as `org/name`."""

    name: str = Field(min_length=1, max_length=64)
    uri: str = Field(min_length=1, max_length=1024)


@dataclass(frozen=True)
class ModelsPage:
    """Context of `registry/list.html`. `figures` are each model's main numbers, in words."""

    project: Project
    models: Sequence[ModelVersion]
    names: dict[UUID, str]
    figures: dict[UUID, str]
    form: Submitted[RegisterForm]
    may_change: bool


@dataclass(frozen=True)
class ModelPage:
    """Context of `registry/show.html`."""

    project: Project
    model: ModelVersion
    lineage: Lineage
    figures: dict[str, str]
    evaluation: dict[str, str]
    evaluation_run: str
    verdict: GateVerdict | None
    checks: Sequence[Check]
    may_judge: bool
    may_promote: bool
    problem: str


@router.get("/models")
def find_models(_user: ReviewerUser, project: UUID) -> Response:
    """Lead to the models of a project."""
    return redirect(f"/projects/{project}/models")


@router.get("/projects/{project_id}/models")
def list_models(request: Request, session: SessionDep, user: ReviewerUser, project_id: UUID) -> Response:
    """List a project's models."""
    project = projects.get(session, project_id)
    return _list(request, session, project, blank(), may_change=user.role == "admin")


@router.post("/projects/{project_id}/models")
def register(
    request: Request,
    session: SessionDep,
    admin: AdminUser,
    project_id: UUID,
    submitted: Annotated[Submitted[RegisterForm], Depends(form_of(RegisterForm))],
) -> Response:
    """Register a base model and lead to its page."""
    project = projects.get(session, project_id)
    if submitted.data is None:
        return _list(request, session, project, submitted, may_change=True, status=422)
    try:
        model = registry.register_base(session, project, admin, name=submitted.data.name, uri=submitted.data.uri)
    except (InvalidInputError, ConflictError) as error:
        return _list(request, session, project, submitted.refused(error), may_change=True, status=error.status)
    return redirect(f"/models/{model.id}")


@router.get("/models/{model_id}")
def show(request: Request, session: SessionDep, user: ReviewerUser, model_id: UUID) -> Response:
    """Show a model."""
    return _show(request, session, registry.get(session, model_id), may_promote=user.role == "admin")


@router.post("/models/{model_id}/promote")
def promote(request: Request, session: SessionDep, admin: AdminUser, model_id: UUID) -> Response:
    """Make this the project's active policy."""
    model = registry.get(session, model_id)
    try:
        promotions.promote(session, model, admin)
    except InvalidInputError as error:
        return _show(request, session, model, may_promote=True, problem=error.message, status=error.status)
    return redirect(f"/models/{model.id}", done="model-promoted")


def _list(
    request: Request,
    session: SessionDep,
    project: Project,
    form: Submitted[RegisterForm],
    *,
    may_change: bool,
    status: int = 200,
) -> Response:
    models = registry.of_project(session, project.id)
    page = ModelsPage(
        project,
        models,
        {model.id: model.name for model in models},
        {model.id: _headline(model) for model in models},
        form,
        may_change,
    )
    return render(request, "registry/list.html", page, status)


def _show(
    request: Request,
    session: SessionDep,
    model: ModelVersion,
    *,
    may_promote: bool,
    problem: str = "",
    status: int = 200,
) -> Response:
    evaluation = model.metrics.get("evaluation", {})
    verdict = gate.newest(session, model.id)
    page = ModelPage(
        projects.get(session, model.project_id),
        model,
        registry.lineage(session, model),
        charts.figures(model.metrics),
        charts.figures(evaluation),
        str(evaluation.get("run_id", "")),
        verdict,
        gate.checks_of(verdict) if verdict else (),
        may_promote and model.kind == "policy" and gate.of_project(session, model.project_id)[0] != gate.Limits(),
        may_promote and model.kind == "policy" and model.state != "promoted",
        problem,
    )
    return render(request, "registry/show.html", page, status)


def _headline(model: ModelVersion) -> str:
    """Return the one or two numbers by which models of this kind are compared."""
    known = {**model.metrics, **model.metrics.get("evaluation", {})}
    wanted = ("held_out_accuracy", "held_out_loss") if model.kind == "reward" else ("win_rate", "kl")
    found = [charts.figures({key: known[key]}) for key in wanted if charts.is_figure(known.get(key))]
    return ", ".join(f"{label} {text}" for each in found for label, text in each.items())
