"""Workers: which process was seen lately, so that a page can say why a run is still waiting."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import delete, exists, func, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.models import Worker
from app.queue import GPU_QUEUE
from app.services.training import devices

RECENT_SECONDS = 60
FORGET_DAYS = 7


def seen(session: Session, worker: str, queue: str = GPU_QUEUE) -> None:
    """Note that a worker is alive now, and what it offers."""
    offers = {"devices": devices.describe(), "gpus": devices.count()}
    statement = upsert(Worker).values(id=worker, queue=queue, host=socket.gethostname(), **offers)
    session.execute(
        statement.on_conflict_do_update(index_elements=[Worker.id], set_={"seen_at": func.clock_timestamp(), **offers})
    )


def any_recent(session: Session, queue: str = GPU_QUEUE, gpus: int = 1) -> bool:
    """Return whether a worker of this queue that offers so many GPUs was seen in the last minute."""
    since = func.clock_timestamp() - timedelta(seconds=RECENT_SECONDS)
    fits = Worker.queue == queue, Worker.gpus >= gpus, Worker.seen_at > since
    return bool(session.scalar(select(exists().where(*fits))))


def listed(session: Session) -> Sequence[Worker]:
    """Return the workers that were seen in the last days, the latest first."""
    return session.scalars(select(Worker).order_by(Worker.seen_at.desc(), Worker.id)).all()


def forget_old(session: Session) -> None:
    """Drop the rows of processes that ended long ago."""
    session.execute(delete(Worker).where(Worker.seen_at < func.clock_timestamp() - timedelta(days=FORGET_DAYS)))
