"""What is sent when: due messages are taken, tried outside of any transaction, and the outcome is recorded.

An attempt that is under way is a row whose `next_at` lies ahead; a worker that dies in it leaves the row to become due
again. So a message may arrive twice, with the same id, and never not at all. Waits grow from seconds to hours.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Select, case, func, select, update
from sqlalchemy.orm import Session

from app.errors import NotFoundError
from app.models import User, Webhook, WebhookDelivery
from app.services.accounts import audit
from app.services.hooks.sending import GONE, SECONDS, Message, Outcome

WAITS = (5, 60, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000)
"""Seconds after each failed attempt but the last; with jitter of a fifth, two and a half days in all."""

JITTER = 0.2
MOST_FAILURES = 20
"""A webhook whose attempts have failed so often in a row is disabled."""

AT_ONCE = 20
KEPT = timedelta(days=30)
NOW = func.clock_timestamp()


@dataclass(frozen=True)
class Attempt:
    """A message that was taken to be sent now, for the so-many-th time."""

    delivery_id: UUID
    number: int
    message: Message


def is_due(session: Session) -> bool:
    """Return whether there is something to send now."""
    return session.execute(select(_due().exists())).scalar_one()


def take_due(session: Session) -> list[Attempt]:
    """Take some of the messages that are due, of webhooks that are not disabled, the longest due first."""
    due = _due().order_by(WebhookDelivery.next_at).limit(AT_ONCE).with_for_update(of=WebhookDelivery, skip_locked=True)
    rows = session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.id.in_(due), Webhook.id == WebhookDelivery.webhook_id)
        .values(attempts=WebhookDelivery.attempts + 1, next_at=NOW + timedelta(seconds=6 * SECONDS))
        .returning(WebhookDelivery.id, WebhookDelivery.attempts, WebhookDelivery.body, Webhook.url, Webhook.secret),
        execution_options={"synchronize_session": False},
    )
    return [Attempt(row.id, row.attempts, Message(str(row.id), row.url, row.secret, row.body)) for row in rows]


def record(session: Session, attempt: Attempt, outcome: Outcome) -> None:
    """Store what became of an attempt, unless the message was taken again since; disable what fails too long."""
    is_done, is_spent = outcome.problem is None, attempt.number > len(WAITS)
    pause = 0.0 if is_spent else WAITS[attempt.number - 1] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
    webhook_id = session.scalar(
        update(WebhookDelivery)
        .where(
            WebhookDelivery.id == attempt.delivery_id,
            WebhookDelivery.state == "pending",
            WebhookDelivery.attempts == attempt.number,
        )
        .values(
            state="delivered" if is_done else "failed" if is_spent else "pending",
            next_at=None if is_done or is_spent else NOW + timedelta(seconds=pause),
            last_status=outcome.status,
            last_problem=outcome.problem,
            last_at=NOW,
            delivered_at=NOW if is_done else None,
        )
        .returning(WebhookDelivery.webhook_id),
        execution_options={"synchronize_session": False},
    )
    if webhook_id is None:
        return
    if is_done:
        session.execute(
            update(Webhook).where(Webhook.id == webhook_id, Webhook.failures > 0).values(failures=0),
            execution_options={"synchronize_session": False},
        )
        return
    ends = (Webhook.failures + 1 >= MOST_FAILURES) | (outcome.status == GONE)
    gone = "It answered 410: it wants no more." if outcome.status == GONE else None
    session.execute(
        update(Webhook)
        .where(Webhook.id == webhook_id)
        .values(
            failures=Webhook.failures + 1,
            disabled_at=func.coalesce(Webhook.disabled_at, case((ends, NOW))),
            disabled_reason=func.coalesce(
                Webhook.disabled_reason, case((ends, gone or f"{MOST_FAILURES} attempts in a row failed."))
            ),
        ),
        execution_options={"synchronize_session": False},
    )


def _due() -> Select[UUID]:
    return (
        select(WebhookDelivery.id)
        .join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
        .where(WebhookDelivery.state == "pending", WebhookDelivery.next_at <= NOW, Webhook.disabled_at.is_(None))
    )


def of_webhook(session: Session, webhook_id: UUID, limit: int = 100) -> Sequence[WebhookDelivery]:
    """Return a webhook's messages, the newest first."""
    query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id)
    return session.scalars(query.order_by(WebhookDelivery.id.desc()).limit(limit)).all()


def again(session: Session, delivery_id: UUID, user: User) -> UUID:
    """Send a message again as soon as may be, with its id, whatever became of it; return the id of its webhook."""
    webhook_id: UUID | None = session.scalar(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == delivery_id)
        .values(state="pending", attempts=0, next_at=NOW, delivered_at=None)
        .returning(WebhookDelivery.webhook_id),
        execution_options={"synchronize_session": False},
    )
    if webhook_id is None:
        raise NotFoundError("There is no such message.")
    audit.record(session, user, "webhook.sent_again", "webhook_delivery", delivery_id)
    return webhook_id


def forget_old(session: Session) -> None:
    """Delete messages that came to their end long ago. The workers' tick calls it."""
    old = (
        select(WebhookDelivery.id)
        .where(WebhookDelivery.state != "pending", WebhookDelivery.last_at < NOW - KEPT)
        .limit(500)
        .with_for_update(skip_locked=True)
    )
    for row in session.scalars(select(WebhookDelivery).where(WebhookDelivery.id.in_(old))):
        session.delete(row)
