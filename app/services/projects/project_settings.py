"""What an admin sets for a project while it runs: overlap, leases, deadline, who may work, gold tasks and trials."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.errors import InvalidInputError
from app.models import AuditEvent, Project, User
from app.services.labeling import task_changes
from app.services.labeling.task_changes import Outcome
from app.services.projects import mixing, projects

CONFIGURED = "project.configured"


@dataclass(frozen=True)
class NewSettings:
    """Everything the settings page sets. `deadline` is as typed, in UTC, such as 2027-01-31T18:00; empty for none."""

    overlap: int
    lease_minutes: int
    max_leases: int
    deadline: str
    access: str
    gold_percent: int
    screening_tasks: int
    screening_percent: int
    queue_order: str = "arrival"
    random_percent: int = 20
    round_weight_percent: int = 100
    policy_weights: str = ""


def shown(project: Project) -> dict[str, str]:
    """Return a project's settings as the values of their form."""
    deadline = project.deadline_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M") if project.deadline_at else ""
    return {
        "overlap": str(project.overlap),
        "lease_minutes": str(project.lease_minutes),
        "max_leases": str(project.max_leases),
        "deadline": deadline,
        "access": project.access,
        "gold_percent": str(project.gold_percent),
        "screening_tasks": str(project.screening_tasks),
        "screening_percent": str(round(project.screening_threshold * 100)),
        "queue_order": project.queue_order,
        "random_percent": str(project.random_percent),
        "round_weight_percent": str(project.round_weight_percent),
        "policy_weights": "\n".join(f"{name} {weight:g}" for name, weight in sorted(project.policy_weights.items())),
    }


def now(session: Session) -> datetime:
    """Return the moment by the database's clock, which decides what has passed."""
    moment: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return moment


def save(session: Session, project: Project, user: User, new: NewSettings, *, open_tasks_too: bool) -> UUID | None:
    """Store the settings, and the overlap for the open ranking tasks too if asked; None when nothing was to change.

    Returns the id of the report otherwise. The form has checked the figures and the table's constraints hold them.
    Raises `InvalidInputError` for a deadline that is no time, or is newly set to one that has passed, and for weights
    that are no lines of a name and a number.
    """
    locked = projects.lock(session, project.id)
    before = shown(locked)
    deadline = _deadline(session, new.deadline, before["deadline"], locked.deadline_at)
    locked.overlap = new.overlap
    locked.lease_minutes = new.lease_minutes
    locked.max_leases = new.max_leases
    locked.deadline_at = deadline
    locked.access = new.access
    locked.gold_percent = new.gold_percent
    locked.screening_tasks = new.screening_tasks
    locked.queue_order = new.queue_order
    locked.random_percent = new.random_percent
    locked.round_weight_percent = new.round_weight_percent
    locked.policy_weights = mixing.read_weights(new.policy_weights)
    if str(new.screening_percent) != before["screening_percent"]:
        locked.screening_threshold = new.screening_percent / 100
    after = shown(locked)
    outcome = (
        task_changes.set_overlap(session, task_changes.ranking_tasks_in_use(project.id), new.overlap)
        if open_tasks_too
        else Outcome()
    )
    if after == before and not open_tasks_too:
        return None
    event = AuditEvent(
        actor_id=user.id,
        action=CONFIGURED,
        object_type="project",
        object_id=str(project.id),
        detail={
            "changes": {name: [before[name], after[name]] for name in after if after[name] != before[name]},
            "changed": outcome.changed,
            "kept_higher": outcome.kept_higher,
        },
    )
    session.add(event)
    session.flush()
    return event.id


def _deadline(session: Session, typed: str, before: str, stored: datetime | None) -> datetime | None:
    """Return the moment that was typed; the form shows minutes, so an unchanged one keeps its seconds."""
    if typed == before:
        return stored
    if not typed:
        return None
    try:
        parsed = datetime.fromisoformat(typed)
        deadline = (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInputError("Give the deadline as a date and a time in UTC, such as 2027-01-31 18:00.") from None
    if deadline <= now(session):
        raise InvalidInputError("This moment has passed. Choose a later one, or pause the project to stop now.")
    return deadline
