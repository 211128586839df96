"""Which policy a project uses, and which it used before: promoting through the gate, and going back by one click."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from app.errors import ConflictError
from app.models import GateVerdict, ModelVersion, Project, Promotion, User
from app.services.evaluation import gate
from app.services.evaluation.gate import Limits
from app.services.projects import projects
from app.services.training import registry


@dataclass(frozen=True)
class Line:
    """One change of the active policy as the page shows it; `passed` is the gate's verdict, None without one."""

    model_id: UUID
    model: str
    previous: str | None
    how: str
    who: str | None
    passed: bool | None
    at: datetime


def promote(session: Session, model: ModelVersion, user: User) -> None:
    """Make a policy the active one on an admin's word; what the gate says of it is stored beside, whatever it says."""
    limits, _ = gate.of_project(session, model.project_id)
    is_asked = limits != Limits() and model.kind == "policy" and model.state != "promoted"
    verdict = gate.judge(session, model, user, limits) if is_asked else None
    registry.promote(session, model, user, verdict=verdict)


def roll_back(session: Session, project: Project, user: User, leaving: UUID) -> ModelVersion:
    """Make the policy active again that was active before `leaving`, and return it.

    Raises `ConflictError` when another policy is active by now, or none was before. So a second click does nothing.
    """
    projects.lock(session, project.id)
    active = registry.active(session, project.id)
    if active is None or active.id != leaving:
        raise ConflictError("Another policy is active by now. Look at the page again before you go back.")
    before = previous(session, active)
    if before is None:
        raise ConflictError(f"There was no policy before {active.name} to go back to.")
    return registry.promote(session, before, user, how="rollback")


def previous(session: Session, model: ModelVersion) -> ModelVersion | None:
    """Return the policy that a project used before it promoted this one; None if this was its first."""
    before = session.scalar(
        select(Promotion.previous_id)
        .where(Promotion.model_id == model.id, Promotion.how != "rollback")
        .order_by(Promotion.id.desc())
        .limit(1)
    )
    return session.get(ModelVersion, before) if before else None


def listed(session: Session, project_id: UUID, most: int = 50) -> Sequence[Line]:
    """Return a project's changes of the active policy, the newest first."""
    before = aliased(ModelVersion)
    rows = session.execute(
        select(
            Promotion.model_id,
            ModelVersion.name,
            before.name,
            Promotion.how,
            User.name,
            GateVerdict.passed,
            Promotion.created_at,
        )
        .join(ModelVersion, ModelVersion.id == Promotion.model_id)
        .outerjoin(before, before.id == Promotion.previous_id)
        .outerjoin(User, User.id == Promotion.created_by)
        .outerjoin(GateVerdict, GateVerdict.id == Promotion.verdict_id)
        .where(Promotion.project_id == project_id)
        .order_by(Promotion.id.desc())
        .limit(most)
    )
    return [Line(*row) for row in rows]
