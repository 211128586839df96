"""The outbox: an event becomes one message for each webhook that wants it, in the transaction of the event itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import func, insert, literal, or_, select
from sqlalchemy.orm import Session

from app.db import after_commit
from app.models import Run, Webhook, WebhookDelivery
from app.queue import DEFAULT_QUEUE, ring

TASK = "plackett.webhooks"
Event = Literal["snapshot.ready", "run.finished", "model.promoted"]
EVENTS: Mapping[str, str] = {
    "snapshot.ready": "A snapshot is ready",
    "run.finished": "A run has succeeded, failed or been cancelled",
    "model.promoted": "A model is promoted",
}


def announce(session: Session, event: Event, project_id: UUID, **data: Any) -> None:
    """Write a message to every webhook that wants this event of this project; the worker sends it after the commit.

    It says what happened, by ids and names. What labelers wrote is never in it: who may read that has a token.
    """
    wanted = (
        Webhook.disabled_at.is_(None),
        Webhook.events.contains([event]),
        or_(Webhook.project_id.is_(None), Webhook.project_id == project_id),
    )
    moment = session.scalar(select(func.clock_timestamp()).where(select(Webhook.id).where(*wanted).exists()))
    if moment is None:
        return  # nobody wants to know
    facts = {"project_id": project_id, **data}
    body = json.dumps(
        {"type": event, "timestamp": moment.isoformat(), "data": facts}, default=str, separators=(",", ":")
    )
    session.execute(
        insert(WebhookDelivery).from_select(
            ["webhook_id", "event", "body"], select(Webhook.id, literal(event), literal(body)).where(*wanted)
        )
    )
    after_commit(session, lambda: ring(TASK, DEFAULT_QUEUE))


def announce_run(session: Session, run_id: UUID, state: str) -> None:
    """Announce that a run has come to its end."""
    run = session.execute(select(Run.project_id, Run.name, Run.method).where(Run.id == run_id)).one()
    announce(session, "run.finished", run.project_id, run_id=run_id, name=run.name, method=run.method, state=state)
