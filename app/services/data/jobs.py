"""Snapshots and imports that take longer than a request may: asked for here, done by a worker, read afterwards.

    ask ─► queued ─ claim ─► running ─┬─ succeed ─► succeeded
              ▲                       ├─ fail ────► failed
              └─ give_back, expire ───┘             (also after the third lost attempt)

The row is the job. What a job stores is committed together with its success, so a killed worker leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, BinaryIO, Literal
from uuid import UUID

from sqlalchemy import case, exists, func, null, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.db import after_commit
from app.errors import InvalidInputError, NotFoundError
from app.models import Job, Project, Upload, User
from app.queue import DEFAULT_QUEUE, ring
from app.services.data import intake, uploads
from app.services.training import snapshots
from app.settings import get_settings

TASK = "plackett.jobs"
MOST_ATTEMPTS = 3
PACKED = (b"\x1f\x8b", b"PAR1")
PACKED_TIMES = 16
"""A compressed file counts as so many times its size."""

Kind = Literal["snapshot", "import"]
_NOW = func.clock_timestamp()
_LOST = "The worker that did this stopped answering."


class LostError(RuntimeError):
    """The job belongs to another worker by now, or has ended: what was done for it must not be stored."""


@dataclass(frozen=True)
class Claimed:
    """A job that this worker is to do."""

    id: UUID
    attempt: int
    kind: str
    project_id: UUID
    asked: Mapping[str, Any]
    upload_id: UUID | None
    created_by: UUID


def is_long_import(file: BinaryIO) -> bool:
    """Return whether importing the file, which is at its start again, is a worker's job."""
    start, size = file.read(4), file.seek(0, 2)
    file.seek(0)
    return size * (PACKED_TIMES if start.startswith(PACKED) else 1) > get_settings().import_at_once_bytes


def is_long_snapshot(session: Session, project: Project) -> bool:
    """Return whether freezing the project is a worker's job."""
    most = get_settings().freeze_at_once_rows
    return snapshots.rows_in(session, project, most + 1) > most


def ask_snapshot(session: Session, project: Project, user: User) -> Job:
    """Ask for a snapshot of what will count when a worker begins it; who asks while one waits gets the same."""
    values = {"project_id": project.id, "kind": "snapshot", "created_by": user.id}
    session.execute(upsert(Job).values(values).on_conflict_do_nothing())
    _ring(session)
    query = select(Job).where(
        Job.project_id == project.id, Job.kind == "snapshot", Job.state == "queued", Job.attempt == 0
    )
    return session.scalars(query).one()


def ask_import(
    session: Session,
    upload: Upload,
    user: User,
    *,
    format_name: str,
    dataset: str,
    judge: str | None,
    keep: bool = True,
) -> Job:
    """Ask for the import of a whole file. A refused file stays for a day if it is to be kept.

    Raises `InvalidInputError` at once for a format or a name that will not do. Asking again while it waits or runs
    returns the same job.
    """
    with uploads.whole(upload).open("rb") as file:
        of, name = intake.checked(file, format_name, dataset)
    asked = {"format": of.name, "dataset": name, "judge": judge, "keep": keep}
    values = {
        "project_id": upload.project_id,
        "kind": "import",
        "asked": asked,
        "upload_id": upload.id,
        "created_by": user.id,
    }
    session.execute(upsert(Job).values(values).on_conflict_do_nothing())
    _ring(session)
    query = select(Job).where(Job.upload_id == upload.id, Job.state.in_(("queued", "running")))
    return session.scalars(query).one()


def ask_import_of(
    session: Session,
    project: Project,
    user: User,
    file: BinaryIO,
    *,
    format_name: str,
    dataset: str,
    judge: str | None,
) -> Job:
    """Keep a file that came with a request, and ask for its import. Raises `InvalidInputError` as `ask_import` does."""
    intake.checked(file, format_name, dataset)
    size = file.seek(0, 2)
    upload = uploads.create(session, project, user, size)
    uploads.append(session, upload, 0, file)
    return ask_import(session, upload, user, format_name=format_name, dataset=dataset, judge=judge, keep=False)


def get(session: Session, job_id: UUID) -> Job:
    """Return a job, or raise `NotFoundError`."""
    job = session.get(Job, job_id)
    if job is None:
        raise NotFoundError("There is no such job.")
    return job


def unfinished(session: Session, project_id: UUID, kind: Kind) -> Sequence[Job]:
    """Return a project's jobs that wait or run, the oldest first."""
    query = select(Job).where(Job.project_id == project_id, Job.kind == kind, Job.state.in_(("queued", "running")))
    return session.scalars(query.order_by(Job.id)).all()


def seconds_left(job: Job, now: datetime) -> float | None:
    """Return how long a running job will still take if it goes on as it has, or None before that can be told."""
    if job.state != "running" or job.started_at is None or job.progress <= 0:
        return None
    return (now - job.started_at).total_seconds() * (1 - job.progress) / job.progress


def is_due(session: Session) -> bool:
    """Return whether a job waits for a worker."""
    return bool(session.scalar(select(exists().where(Job.state == "queued"))))


def claim(session: Session) -> Claimed | None:
    """Take the job that has waited longest, or return None. Many workers may ask at once."""
    oldest = select(Job.id).where(Job.state == "queued").order_by(Job.id).limit(1).with_for_update(skip_locked=True)
    row = session.execute(
        update(Job)
        .where(Job.id == oldest.scalar_subquery())
        .values(
            state="running", attempt=Job.attempt + 1, lease_until=_lease(), started_at=_NOW, progress=0, reason=None
        )
        .returning(Job.id, Job.attempt, Job.kind, Job.project_id, Job.asked, Job.upload_id, Job.created_by),
        execution_options={"synchronize_session": False},
    ).one_or_none()
    return None if row is None else Claimed(*row)


def beat(session: Session, job: Claimed, progress: float) -> bool:
    """Hold the job for another while and say how far it is; return False when it is another's by now."""
    return _change(session, job, lease_until=_lease(), progress=progress)


def succeed(session: Session, job: Claimed, result: Mapping[str, Any]) -> None:
    """End a job in the transaction that stores what it made; raise `LostError` when it is another's by now."""
    values = {"state": "succeeded", "lease_until": null(), "progress": 1, "result": dict(result), "finished_at": _NOW}
    if not _change(session, job, **values):
        raise LostError


def fail(session: Session, job: Claimed, reason: str, details: Sequence[str] = ()) -> bool:
    """End a job that cannot be done."""
    values = {"state": "failed", "lease_until": null(), "reason": reason, "details": list(details)}
    failed = _change(session, job, **values, finished_at=_NOW)
    upload = session.get(Upload, job.upload_id) if job.upload_id else None
    if failed and upload is not None and not job.asked.get("keep"):
        uploads.remove(session, upload)
    return failed


def give_back(session: Session, job: Claimed, reason: str) -> bool:
    """Let another worker begin the job anew."""
    values = {"state": "queued", "lease_until": null(), "progress": 0, "reason": reason}
    return _change(session, job, **values)


def expire(session: Session) -> None:
    """Let jobs whose worker is silent be begun anew; the third time one fails, with the reason."""
    spent = Job.attempt >= MOST_ATTEMPTS
    session.execute(
        update(Job)
        .where(Job.state == "running", Job.lease_until < _NOW)
        .values(
            state=case((spent, "failed"), else_="queued"),
            finished_at=case((spent, _NOW)),
            reason=case((spent, f"{_LOST} It was tried {MOST_ATTEMPTS} times."), else_=f"{_LOST} It is tried again."),
            lease_until=null(),
            progress=0,
        ),
        execution_options={"synchronize_session": False},
    )


def refusal(job: Job) -> InvalidInputError:
    """Return why a job failed as the error that the request would have been answered with."""
    return InvalidInputError(job.reason or "It failed.", details=tuple(job.details))


def _change(session: Session, job: Claimed, **values: Any) -> bool:
    changed = session.execute(
        update(Job)
        .where(Job.id == job.id, Job.attempt == job.attempt, Job.state == "running")
        .values(**values)
        .returning(Job.id),
        execution_options={"synchronize_session": False},
    )
    return changed.one_or_none() is not None


def _lease() -> Any:
    return _NOW + timedelta(seconds=get_settings().run_lease_seconds)


def _ring(session: Session) -> None:
    after_commit(session, partial(ring, TASK, DEFAULT_QUEUE))
