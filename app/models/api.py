"""Table of requests that are safe to repeat: what was answered to a POST with an idempotency key."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, Now


class IdempotencyKey(Base):
    """The answer to one request of a token, stored in the transaction of what the request did.

    `request_sha256` is of its method, address and body, so that a key used for something else is noticed.
    """

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("ix_idempotency_keys_expires_at", "expires_at"),)

    token_id: Mapped[UUID] = mapped_column(ForeignKey("api_tokens.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[bytes]
    status: Mapped[int]
    headers: Mapped[dict[str, Any]]
    body: Mapped[str]
    created_at: Mapped[Now]
    expires_at: Mapped[datetime]
