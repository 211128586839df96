"""Pages of the gate: what a candidate has to reach, which policies were in use when, and going back by one click.

POST /projects/{id}/gate             thresholds (empty: not asked for), promotes, blind_percent
POST /projects/{id}/gate/roll-back   leaving: the policy that is active on the page
POST /models/{id}/gate               hold a policy against the thresholds now
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Depends, Request
from pydantic import Field, field_validator
from starlette.responses import Response

from app.auth import AdminUser, ReviewerUser, page_router
from app.db import SessionDep
from app.errors import InvalidInputError
from app.forms import FormModel, Submitted, form_of
from app.models import GateVerdict, ModelVersion, Project
from app.services.evaluation import gate, promotions
from app.services.evaluation.gate import Check, Limits
from app.services.projects import projects
from app.services.training import registry
from app.templating import redirect, render

router = page_router()

PERCENT = ("min_accuracy", "min_win_rate", "min_blind_win_rate", "max_perplexity_rise", "max_choice_drop")
Percent = Annotated[float | None, Field(default=None, ge=0, le=100, allow_inf_nan=False)]


class GateForm(FormModel):
    """The thresholds as typed; shares are in percent, and an empty field is not asked for."""

    min_accuracy: Percent
    min_win_rate: Percent
    min_blind_win_rate: Percent
    max_kl: float | None = Field(default=None, gt=0, le=1000, allow_inf_nan=False)
    max_perplexity_rise: float | None = Field(default=None, ge=0, le=1000, allow_inf_nan=False)
    max_choice_drop: Percent
    promotes: Literal["yes", ""] = ""
    blind_percent: int = Field(ge=1, le=100)

    @field_validator(*PERCENT, "max_kl", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    def limits(self) -> Limits:
        """Return the thresholds as the shares they stand for."""
        typed = {name: getattr(self, name) for name in asdict(Limits())}
        return Limits(**{name: _share(name, value) for name, value in typed.items()})


class RollBackForm(FormModel):
    """The policy that was active when the page was made."""

    leaving: UUID


@dataclass(frozen=True)
class GatePage:
    """Context of `evaluations/gate.html`. `before` is what one click goes back to."""

    project: Project
    form: Submitted[GateForm]
    active: ModelVersion | None
    before: ModelVersion | None
    history: Sequence[promotions.Line]
    verdicts: Sequence[tuple[GateVerdict, str, Sequence[Check]]]
    may_change: bool


Sent = Annotated[Submitted[GateForm], Depends(form_of(GateForm))]


@router.get("/projects/{project_id}/gate")
def show(request: Request, session: SessionDep, user: ReviewerUser, project_id: UUID) -> Response:
    """Show the thresholds and what came of them."""
    project = projects.get(session, project_id)
    return _page(request, session, project, _stored(session, project), may_change=user.role == "admin")


@router.post("/projects/{project_id}/gate")
def save(request: Request, session: SessionDep, admin: AdminUser, project_id: UUID, submitted: Sent) -> Response:
    """Store the thresholds."""
    project = projects.lock(session, project_id)
    form = submitted.data
    if form is None:
        return _page(request, session, project, submitted, may_change=True, status=422)
    promotes, share = form.promotes == "yes", form.blind_percent
    try:
        gate.save(session, project, admin, form.limits(), promotes=promotes, blind_percent=share)
    except InvalidInputError as error:
        refused = submitted.refused(error)
        return _page(request, session, project, refused, may_change=True, status=error.status)
    return redirect(f"/projects/{project.id}/gate", done="gate-saved")


@router.post("/projects/{project_id}/gate/roll-back")
def roll_back(
    session: SessionDep,
    admin: AdminUser,
    project_id: UUID,
    submitted: Annotated[Submitted[RollBackForm], Depends(form_of(RollBackForm))],
) -> Response:
    """Go back to the policy that was in use before."""
    project = projects.get(session, project_id)
    if submitted.data is None:
        raise InvalidInputError("The form does not say which policy to leave. Reload the page.")
    promotions.roll_back(session, project, admin, submitted.data.leaving)
    return redirect(f"/projects/{project.id}/gate", done="rolled-back")


@router.post("/models/{model_id}/gate")
def judge(session: SessionDep, admin: AdminUser, model_id: UUID) -> Response:
    """Hold a policy against the thresholds and lead to its page."""
    model = registry.get(session, model_id)
    limits, _ = gate.of_project(session, model.project_id)
    if limits == Limits():
        raise InvalidInputError("The project's gate asks for nothing yet; set a threshold first.")
    gate.judge(session, model, admin, limits)
    return redirect(f"/models/{model.id}")


def _page(
    request: Request,
    session: SessionDep,
    project: Project,
    form: Submitted[GateForm],
    *,
    may_change: bool,
    status: int = 200,
) -> Response:
    active = registry.active(session, project.id)
    page = GatePage(
        project,
        form,
        active,
        promotions.previous(session, active) if active else None,
        promotions.listed(session, project.id),
        [(verdict, name, gate.checks_of(verdict)) for verdict, name in gate.verdicts(session, project.id)],
        may_change,
    )
    return render(request, "evaluations/gate.html", page, status)


def _stored(session: SessionDep, project: Project) -> Submitted[GateForm]:
    limits, promotes = gate.of_project(session, project.id)
    values = {
        name: "" if value is None else f"{value * 100 if name in PERCENT else value:g}"
        for name, value in asdict(limits).items()
    }
    values |= {"promotes": "yes" if promotes else "", "blind_percent": str(project.blind_percent)}
    return Submitted(values=values)


def _share(name: str, value: float | None) -> float | None:
    return value / 100 if value is not None and name in PERCENT else value
