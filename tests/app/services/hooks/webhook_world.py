"""Webhooks as the tests of them make and see them."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from sqlalchemy import select

from app.db import transaction
from app.models import Project, User, WebhookDelivery
from app.services.hooks import outbox, webhooks

Allow = Callable[..., None]
EVENTS = list(outbox.EVENTS)


def make(url: str, project_id: UUID | None = None, events: list[str] = EVENTS) -> tuple[UUID, str]:
    with transaction() as session:
        admin = session.scalars(select(User).where(User.role == "admin")).one()
        webhook, secret = webhooks.create(session, admin, url=url, events=events, project_id=project_id)
    return webhook.id, secret


def happen(project: Project, number: int = 1) -> None:
    with transaction() as session:
        outbox.announce(session, "snapshot.ready", project.id, number=number)


def messages() -> list[WebhookDelivery]:
    with transaction() as session:
        return list(session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id)))
