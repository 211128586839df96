"""Requests that are safe to repeat: a POST with a key is done once, and answered the same however often it comes.

The answer is stored in the transaction of what it tells of, so there is never one without the other. A refused request
stores nothing, and its key is free again. (IETF draft-ietf-httpapi-idempotency-key-header.)
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, func, insert, select, text
from sqlalchemy.orm import Session

from app.errors import ConflictError, InvalidInputError
from app.models import IdempotencyKey

KEPT = timedelta(hours=24)
_UNDER_WAY = "A request with this idempotency key is still under way. Send it again in a moment."
_OTHER_REQUEST = "This idempotency key was used for another request. Make a new key for each request."


@dataclass(frozen=True)
class Answer:
    """What a request was answered with."""

    status: int
    headers: dict[str, str]
    body: str


def earlier(session: Session, token_id: UUID, key: str, request_sha256: bytes) -> Answer | None:
    """Return what the same request was answered with before, or None and hold the key until the transaction ends.

    Raises `ConflictError` while the same key is under way, `InvalidInputError` when it was used for something else.
    """
    held = session.scalar(
        select(func.pg_try_advisory_xact_lock(func.hashtextextended(f"idempotency {token_id} {key}", 0)))
    )
    if not held:
        raise ConflictError(_UNDER_WAY)
    is_over = IdempotencyKey.expires_at <= func.clock_timestamp()
    mine = (IdempotencyKey.token_id == token_id, IdempotencyKey.key == key)
    session.execute(delete(IdempotencyKey).where(*mine, is_over).execution_options(synchronize_session=False))
    found = session.scalar(select(IdempotencyKey).where(*mine))
    if found is None:
        return None
    if found.request_sha256 != request_sha256:
        raise InvalidInputError(_OTHER_REQUEST)
    return Answer(found.status, dict(found.headers), found.body)


def keep(session: Session, token_id: UUID, key: str, request_sha256: bytes, answer: Answer) -> None:
    """Store an answer under the key that `earlier` holds."""
    session.execute(
        insert(IdempotencyKey).values(
            token_id=token_id,
            key=key,
            request_sha256=request_sha256,
            status=answer.status,
            headers=answer.headers,
            body=answer.body,
            expires_at=func.clock_timestamp() + KEPT,
        )
    )


def forget_old(session: Session) -> None:
    """Delete what is over, some at a time. The workers' tick calls it."""
    session.execute(
        text(
            "DELETE FROM idempotency_keys WHERE (token_id, key) IN (SELECT token_id, key FROM idempotency_keys "
            "WHERE expires_at <= clock_timestamp() LIMIT 1000 FOR UPDATE SKIP LOCKED)"
        )
    )
