"""Memberships: who may work in a project, on trial or for good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.errors import ForbiddenError, InvalidInputError
from app.models import Membership, Project, User
from app.services.accounts import audit

Standing = Literal["active", "screening", "rejected", "removed", "outside"]

REFUSED = {
    "rejected": "Thank you for the trial tasks. They did not agree with the reference answers often enough for this "
    "project, so you are not part of it this time. If you think that is wrong, a reviewer can look at it again.",
    "removed": "You do not work in this project any more. Ask an admin if this is a mistake.",
    "outside": "Only the members of this project can work in it. Ask an admin to add you.",
}


@dataclass(frozen=True)
class Member:
    """A person's standing in a project, for its page. `score` is their agreement in the trial, 0 to 1."""

    user_id: UUID
    name: str
    email: str
    tags: Sequence[str]
    state: str
    score: float | None
    since: datetime


def standing_of(session: Session, project: Project, user: User) -> Standing:
    """Return where a person stands. Reviewers and admins may work everywhere, without a trial."""
    if user.role != "labeler":
        return "active"
    state = session.scalar(
        select(Membership.state).where(Membership.project_id == project.id, Membership.user_id == user.id)
    )
    return standing_from(project, state)


def standings_of(session: Session, projects: Sequence[Project], user: User) -> dict[UUID, Standing]:
    """Return where a person stands in each of these projects."""
    if user.role != "labeler":
        return {project.id: "active" for project in projects}
    rows = session.execute(select(Membership.project_id, Membership.state).where(Membership.user_id == user.id))
    states = {row[0]: row[1] for row in rows}
    return {project.id: standing_from(project, states.get(project.id)) for project in projects}


def standing_from(project: Project, state: str | None) -> Standing:
    """Return where a labeler stands whose membership has this state, or who has none."""
    if state is not None:
        return state  # type: ignore[return-value]  # the CHECK of the table allows no other
    if project.access == "members":
        return "outside"
    return "screening" if project.screening_tasks else "active"


def refusal(found: Standing) -> str | None:
    """Return the sentence for somebody who may not work with this standing, or None for who may."""
    return REFUSED.get(found)


def check_may_work(session: Session, project: Project, user: User) -> Standing:
    """Return the standing of somebody who may work here, and write nothing; else raise `ForbiddenError`."""
    found = standing_of(session, project, user)
    if found in REFUSED:
        raise ForbiddenError(REFUSED[found])
    return found


def standing(session: Session, project: Project, user: User) -> Standing:
    """Return the standing of somebody who may work, beginning a trial if it is due; else raise `ForbiddenError`."""
    found = check_may_work(session, project, user)
    if found == "screening":
        session.execute(
            upsert(Membership)
            .values(project_id=project.id, user_id=user.id, state="screening")
            .on_conflict_do_nothing()
        )
    return found


def set_state(session: Session, project: Project, user_id: UUID, by: User, state: str) -> None:
    """Let a person in, put them on trial, or take them out; once more changes nothing."""
    if state not in ("screening", "active", "rejected", "removed"):
        raise InvalidInputError("Choose what to do: let in, put on trial, turn down or take out.")
    if session.get(User, user_id) is None:
        raise InvalidInputError("There is no such account.")
    values = {"state": state, "decided_by": by.id, "decided_at": func.clock_timestamp()}
    changed = session.execute(
        upsert(Membership)
        .values(project_id=project.id, user_id=user_id, **values)
        .on_conflict_do_update(
            index_elements=[Membership.project_id, Membership.user_id], set_=values, where=Membership.state != state
        )
        .returning(Membership.user_id)
    ).all()
    if changed:
        audit.record(session, by, f"member.{state}", "project", project.id, user_id=str(user_id))


def conclude_trial(session: Session, project: Project, user_id: UUID, score: float) -> str:
    """Store a trial's agreement (0 to 1) and what follows from it; return the new state. Decided ones stay."""
    state = "active" if score >= project.screening_threshold else "rejected"
    session.execute(
        update(Membership)
        .where(Membership.project_id == project.id, Membership.user_id == user_id, Membership.state == "screening")
        .values(state=state, score=score, decided_at=func.clock_timestamp())
    )
    return state


def could_be_added(session: Session, project_id: UUID) -> list[tuple[UUID, str]]:
    """Return the active labelers without a standing in the project, as (id, name and address)."""
    known = select(Membership.user_id).where(Membership.project_id == project_id)
    rows = session.execute(
        select(User.id, User.name, User.email)
        .where(User.role == "labeler", User.disabled_at.is_(None), User.id.not_in(known))
        .order_by(User.name, User.id)
    )
    return [(user_id, f"{name} ({email})") for user_id, name, email in rows]


def listed(session: Session, project_id: UUID) -> list[Member]:
    """Return everybody who has a standing in the project, by name."""
    rows = session.execute(
        select(User.id, User.name, User.email, User.tags, Membership.state, Membership.score, Membership.created_at)
        .join(Membership, Membership.user_id == User.id)
        .where(Membership.project_id == project_id)
        .order_by(User.name, User.id)
    )
    return [Member(*row) for row in rows]
