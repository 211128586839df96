"""The audit trail: who did what to which object, written in the transaction of the change itself."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app.models import AuditEvent, User


def record(
    session: Session, actor: User | None, action: str, object_type: str, object_id: UUID | str, **detail: Any
) -> None:
    """Add one event. `action` is `object.verb`, such as `user.disabled`; `detail` never holds a secret."""
    session.add(
        AuditEvent(
            actor_id=actor.id if actor else None,
            action=action,
            object_type=object_type,
            object_id=str(object_id),
            detail=detail,
        )
    )
