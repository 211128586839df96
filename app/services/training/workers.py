"""Workers: which process was seen lately, so that a page can say why a run is still waiting."""

from __future__ import annotations

import socket
from datetime import timedelta

from sqlalchemy import delete, exists, func, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.models import Worker
from app.queue import GPU_QUEUE
from app.settings import get_settings

RECENT_SECONDS = 60
FORGET_DAYS = 7


def seen(session: Session, worker: str, queue: str = GPU_QUEUE) -> None:
    """Note that a worker is alive now."""
    statement = upsert(Worker).values(
        id=worker, queue=queue, host=socket.gethostname(), devices=get_settings().trainer_device
    )
    session.execute(
        statement.on_conflict_do_update(index_elements=[Worker.id], set_={"seen_at": func.clock_timestamp()})
    )


def any_recent(session: Session, queue: str = GPU_QUEUE) -> bool:
    """Return whether a worker of this queue was seen in the last minute."""
    since = func.clock_timestamp() - timedelta(seconds=RECENT_SECONDS)
    return bool(session.scalar(select(exists().where(Worker.queue == queue, Worker.seen_at > since))))


def forget_old(session: Session) -> None:
    """Drop the rows of processes that ended long ago."""
    session.execute(delete(Worker).where(Worker.seen_at < func.clock_timestamp() - timedelta(days=FORGET_DAYS)))
