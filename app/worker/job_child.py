"""The process beside a worker that makes snapshots and imports files, one after the other, until none waits.

    python -m app.worker.job_child

It is apart from the worker so that the worker's ticks go on, and so that the memory a large file takes goes with it. It
dies with its worker. Stopped by a signal it gives its job back; killed, its job's lease ends and another begins anew.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from threading import Event, Thread
from typing import Any

from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app import db, logs
from app.errors import PlackettError
from app.models import Project, User
from app.services.data import intake, jobs, uploads
from app.services.data.jobs import Claimed, LostError
from app.services.training import snapshots
from app.worker.child import die_with_parent

logger = logging.getLogger(__name__)

BEAT_SECONDS = 2.0
_OUTAGES = (OperationalError, InterfaceError, PoolTimeoutError)

_child: subprocess.Popen[bytes] | None = None
_stop = Event()


class _StoppedError(Exception):
    """A signal asks this process to end."""


def ensure() -> None:
    """Start the process, unless the one that was started still works."""
    global _child  # noqa: PLW0603  (a worker has one)
    if not is_working():
        _child = subprocess.Popen(
            [sys.executable, "-m", "app.worker.job_child"],
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent(os.getpid()),  # noqa: PLW1509 # only calls prctl, loaded before the fork
        )


def is_working() -> bool:
    """Return whether the process that was started last still works."""
    return _child is not None and _child.poll() is None


def ask_to_stop() -> None:
    """Have the process give its job back."""
    if _child is not None and is_working():
        _child.terminate()


def main() -> None:
    """Do jobs until none waits."""
    logs.configure("jobs")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _stop.set())
    while not _stop.is_set() and do_next():
        pass


def do_next() -> bool:
    """Do the job that has waited longest; return False when none waits, or the database is away."""
    with db.transaction() as session:
        job = jobs.claim(session)
    if job is None:
        return False
    with logs.context(job=job.kind, job_id=str(job.id), attempt=job.attempt):
        return _carry_out(job)


def _carry_out(job: Claimed) -> bool:
    """Do a job; return False when the database is away, so that there is no use in going on."""
    try:
        with _held(job) as held:
            _do(job, held)
    except LostError:
        logger.warning("job %s is another worker's by now", job.id)
    except _StoppedError:
        _end(lambda session: jobs.give_back(session, job, "The worker was stopped. It is begun anew."))
    except _OUTAGES as error:
        logger.warning("job %s waits for Postgres, %s", job.id, type(error).__name__)
        _end(lambda session: jobs.give_back(session, job, "The database was away. It is begun anew."))
        return False
    except PlackettError as error:
        reason, details = error.message, getattr(error, "details", ())
        _end(lambda session: jobs.fail(session, job, reason, details))
    except Exception:  # what we did not foresee is stored as the job's end, or it would be tried for ever
        logger.exception("job %s failed", job.id)
        _end(lambda session: jobs.fail(session, job, "Something unexpected went wrong. The worker's log says what."))
    return True


def _do(job: Claimed, held: _Held) -> None:
    with db.transaction() as session:
        project, user = session.get_one(Project, job.project_id), session.get_one(User, job.created_by)
        if job.kind == "snapshot":
            made = snapshots.create(session, project, user, held.told)
            jobs.succeed(session, job, {"snapshot_id": str(made.id)})
            return
        if job.upload_id is None:
            raise PlackettError("The file was deleted before it was imported; send it again.")
        upload = uploads.get(session, job.upload_id)
        with uploads.whole(upload).open("rb") as file:
            report = intake.import_file(
                session,
                project,
                user,
                file,
                format_name=job.asked["format"],
                dataset=job.asked["dataset"],
                judge=job.asked["judge"],
                told=held.told,
            )
        jobs.succeed(session, job, asdict(report))
        uploads.remove(session, upload)


class _Held(Thread):
    """Holds a job for this process while it is done, in a thread and transactions of its own."""

    def __init__(self, job: Claimed) -> None:
        super().__init__(daemon=True)
        self._job, self._over, self._is_lost, self._part = job, Event(), False, 0.0

    def run(self) -> None:
        """Say again and again that the job is being done and how far it is."""
        while not self._is_lost and not self._over.wait(BEAT_SECONDS):
            try:
                with db.transaction() as session:
                    self._is_lost = not jobs.beat(session, self._job, self._part)
            except SQLAlchemyError as error:
                logger.warning("job %s could not be held: %s", self._job.id, type(error).__name__)

    def told(self, part: float) -> None:
        """Note which part is done; raise once the job is another's, or this process is to end."""
        self._part = part
        if _stop.is_set():
            raise _StoppedError
        if self._is_lost:
            raise LostError

    def end(self) -> None:
        """Hold it no more."""
        self._over.set()
        self.join()


@contextmanager
def _held(job: Claimed) -> Iterator[_Held]:
    held = _Held(job)
    held.start()
    try:
        yield held
    finally:
        held.end()


def _end(change: Any) -> None:
    try:
        with db.transaction() as session:
            change(session)
    except SQLAlchemyError as error:
        logger.warning("a job's end could not be stored, its lease will end: %s", type(error).__name__)


if __name__ == "__main__":
    main()
