"""How policies were judged, as the API lists it: blind evaluations, verdicts of the gate, and who was in use when."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import case, select
from sqlalchemy.orm import Session

from app.models import BlindEvaluation, GateVerdict, Membership, Promotion, User
from app.services.api.listing import Fields, Listing, Part, one, page

_BLIND = select(
    BlindEvaluation.id,
    BlindEvaluation.project_id,
    BlindEvaluation.run_id,
    BlindEvaluation.candidate_id,
    BlindEvaluation.incumbent_id,
    BlindEvaluation.state,
    BlindEvaluation.overlap,
    BlindEvaluation.prompts,
    BlindEvaluation.identical,
    BlindEvaluation.verdict,
    BlindEvaluation.reason,
    case((BlindEvaluation.state == "stopped", BlindEvaluation.figures)).label("figures"),
    BlindEvaluation.created_at,
    BlindEvaluation.stopped_at,
)
_VERDICTS = select(
    GateVerdict.id,
    GateVerdict.project_id,
    GateVerdict.model_id,
    GateVerdict.passed,
    GateVerdict.checks,
    GateVerdict.created_at,
)
_PROMOTIONS = select(
    Promotion.id,
    Promotion.project_id,
    Promotion.model_id,
    Promotion.previous_id,
    Promotion.how,
    Promotion.verdict_id,
    Promotion.created_at,
)
_MEMBERS = select(
    Membership.project_id,
    User.id.label("user_id"),
    User.name,
    User.email,
    User.tags,
    Membership.state,
    Membership.score,
    Membership.created_at,
).join(User, User.id == Membership.user_id)


def blind(session: Session, project_id: UUID, part: Part, *, state: str | None = None) -> Listing:
    """Return a project's blind evaluations; one that goes on has no figures in a list."""
    query = _BLIND.where(BlindEvaluation.project_id == project_id)
    if state is not None:
        query = query.where(BlindEvaluation.state == state)
    return page(session, query, BlindEvaluation.id, part)


def verdicts(session: Session, project_id: UUID, part: Part, *, model_id: UUID | None = None) -> Listing:
    """Return what a project's gate has said."""
    query = _VERDICTS.where(GateVerdict.project_id == project_id)
    if model_id is not None:
        query = query.where(GateVerdict.model_id == model_id)
    return page(session, query, GateVerdict.id, part)


def verdict(session: Session, verdict_id: UUID) -> Fields:
    """Return a verdict, or raise `NotFoundError`."""
    return one(session, _VERDICTS, GateVerdict.id, verdict_id)


def promotions(session: Session, project_id: UUID, part: Part) -> Listing:
    """Return a project's changes of the policy in use."""
    return page(session, _PROMOTIONS.where(Promotion.project_id == project_id), Promotion.id, part)


def members(session: Session, project_id: UUID, part: Part) -> Listing:
    """Return everybody who has a standing in a project."""
    return page(session, _MEMBERS.where(Membership.project_id == project_id), User.id, part)


def member(session: Session, project_id: UUID, user_id: UUID) -> Fields:
    """Return a person's standing in a project, or raise `NotFoundError`."""
    return one(session, _MEMBERS.where(Membership.project_id == project_id), User.id, user_id)


def require_person(session: Session, user_id: UUID) -> None:
    """Raise `NotFoundError` where there is no such account."""
    one(session, select(User.id), User.id, user_id)
