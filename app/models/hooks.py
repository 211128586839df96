"""Tables of webhooks: who is told of what, and the outbox of what they are told."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, IdPk, Now


class Webhook(Base):
    """An address that is told of events, of one project or of all (null). Never deleted: its deliveries name it.

    `secret` signs what is sent, so it is kept as it is; it is shown once. `failures` counts attempts that failed since
    one succeeded; after too many the webhook is disabled, with the reason.
    """

    __tablename__ = "webhooks"
    __table_args__ = (
        CheckConstraint("failures >= 0", name="failures"),
        CheckConstraint("(disabled_at IS NULL) = (disabled_reason IS NULL)", name="disabled"),
        CheckConstraint("cardinality(events) > 0", name="events"),
    )

    id: Mapped[IdPk]
    url: Mapped[str]
    events: Mapped[list[str]] = mapped_column(ARRAY(Text))
    project_id: Mapped[UUID | None] = mapped_column(ForeignKey("projects.id"))
    secret: Mapped[str]
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]
    created_by: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Now]


class WebhookDelivery(Base):
    """The outbox: one message to one webhook, written in the transaction of its event. `id` is its webhook-id.

    `body` is text, because its bytes are signed. While an attempt is under way `next_at` lies ahead, so that nobody
    else makes the same one; the attempt that is recorded is the one that `attempts` counts.
    """

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="state"),
        CheckConstraint("(state = 'pending') = (next_at IS NOT NULL)", name="next_at"),
        CheckConstraint("(state = 'delivered') = (delivered_at IS NOT NULL)", name="delivered_at"),
        Index("ix_webhook_deliveries_due", "next_at", postgresql_where=text("state = 'pending'")),
        Index("ix_webhook_deliveries_webhook_id", "webhook_id", "id"),
    )

    id: Mapped[IdPk]
    webhook_id: Mapped[UUID] = mapped_column(ForeignKey("webhooks.id"))
    event: Mapped[str]
    body: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=text("'pending'"))
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    next_at: Mapped[datetime | None] = mapped_column(server_default=text("clock_timestamp()"))
    last_status: Mapped[int | None]
    last_problem: Mapped[str | None]
    last_at: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]
    created_at: Mapped[Now]
