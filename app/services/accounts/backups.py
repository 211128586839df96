"""What is known of backups: when one was last made, and when one was last proved to come back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.models import AuditEvent
from app.services.accounts import audit
from app.settings import get_settings

MADE, VERIFIED = "backup.made", "backup.verified"


@dataclass(frozen=True)
class Standing:
    """The last backup and the last proof, None if never. `is_late`: the proof is older than the operator wants.

    `proved_made_at` is when the backup that was proved had been made, which the data would fall back to.
    """

    made_at: datetime | None
    proved_at: datetime | None
    proved_made_at: datetime | None
    is_late: bool
    days: int


def note_made(session: Session, digest: str, made_at: str) -> None:
    """Note that a backup was made."""
    audit.record(session, None, MADE, "backup", digest[:16], made_at=made_at)


def note_verified(session: Session, digest: str, made_at: str) -> None:
    """Note that a backup came back, whole, into a server of its own."""
    audit.record(session, None, VERIFIED, "backup", digest[:16], made_at=made_at)


def standing(session: Session) -> Standing:
    """Return how it stands with backups, by the clock of Postgres."""
    days = get_settings().backup_warning_days
    now = session.execute(select(func.clock_timestamp())).scalar_one()
    made, proved = (_last(session, action) for action in (MADE, VERIFIED))
    held = proved.detail.get("made_at") if proved else None
    return Standing(
        made.at if made else None,
        proved.at if proved else None,
        datetime.fromisoformat(held) if held else None,
        is_late=proved is None or now - proved.at > timedelta(days=days),
        days=days,
    )


def _last(session: Session, action: str) -> AuditEvent | None:
    newest = select(AuditEvent).where(AuditEvent.action == action).order_by(AuditEvent.at.desc()).limit(1)
    return session.scalar(newest)
