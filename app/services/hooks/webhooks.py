"""Webhooks as admins manage them: made, disabled, enabled again, and listed with how they fare."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.errors import InvalidInputError, NotFoundError
from app.models import Project, User, Webhook, WebhookDelivery
from app.services.accounts import audit
from app.services.hooks import addresses, signing
from app.services.hooks.outbox import EVENTS


@dataclass(frozen=True)
class Line:
    """A webhook as its list shows it, with how many messages wait and how many were given up."""

    webhook: Webhook
    project: str | None
    waiting: int
    failed: int


def create(
    session: Session, user: User, *, url: str, events: Collection[str], project_id: UUID | None
) -> tuple[Webhook, str]:
    """Make a webhook and return it with its secret, which nobody is shown again.

    Raises `InvalidInputError` for an address that may not be called or events that there are not.
    """
    addresses.check(url)
    if not events or set(events) - EVENTS.keys():
        raise InvalidInputError("Choose at least one of the events offered.")
    if project_id is not None and session.get(Project, project_id) is None:
        raise NotFoundError("There is no such project.")
    secret = signing.new_secret()
    webhook = Webhook(url=url, events=sorted(events), project_id=project_id, secret=secret, created_by=user.id)
    session.add(webhook)
    session.flush()
    audit.record(session, user, "webhook.created", "webhook", webhook.id, url=addresses.origin(url))
    return webhook, secret


def get(session: Session, webhook_id: UUID) -> Webhook:
    """Return a webhook, or raise `NotFoundError`."""
    webhook = session.get(Webhook, webhook_id)
    if webhook is None:
        raise NotFoundError("There is no such webhook.")
    return webhook


def listed(session: Session) -> list[Line]:
    """Return every webhook, the newest first."""
    counts = (
        select(func.count())
        .where(WebhookDelivery.webhook_id == Webhook.id, WebhookDelivery.state == state)
        .correlate(Webhook)
        .scalar_subquery()
        for state in ("pending", "failed")
    )
    rows = session.execute(
        select(Webhook, Project.name, *counts)
        .outerjoin(Project, Project.id == Webhook.project_id)
        .order_by(Webhook.id.desc())
    )
    return [Line(*row) for row in rows]


def disable(session: Session, webhook_id: UUID, user: User) -> None:
    """Send it nothing more until it is enabled; what waits goes on waiting. Disabling it twice is the same as once."""
    get(session, webhook_id)
    done = session.scalar(
        update(Webhook)
        .where(Webhook.id == webhook_id, Webhook.disabled_at.is_(None))
        .values(disabled_at=func.clock_timestamp(), disabled_reason=f"Disabled by {user.name}.")
        .returning(Webhook.id)
    )
    if done is not None:
        audit.record(session, user, "webhook.disabled", "webhook", webhook_id)


def enable(session: Session, webhook_id: UUID, user: User) -> None:
    """Let it be told again, what waits first, if it may still be called."""
    webhook = get(session, webhook_id)
    addresses.check(webhook.url)
    if webhook.disabled_at is None:
        return
    session.execute(
        update(Webhook).where(Webhook.id == webhook_id).values(disabled_at=None, disabled_reason=None, failures=0)
    )
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == webhook_id, WebhookDelivery.state == "pending")
        .values(next_at=func.clock_timestamp())
    )
    audit.record(session, user, "webhook.enabled", "webhook", webhook_id)
