"""What Celery calls. Each body looks into Postgres for what is due; a message that comes late or twice does nothing.

celery -A app.queue worker --queues gpu --pool solo       (see `app.queue.worker_command`)
"""

from __future__ import annotations

import logging
import os
import socket
import time
from functools import partial
from threading import Event
from typing import Any
from uuid import UUID

from celery.signals import celeryd_after_setup, heartbeat_sent, worker_shutting_down
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.db import after_commit, reading, transaction
from app.queue import DEFAULT_QUEUE, GPU_QUEUE, celery, gpu_queue, ring
from app.services.accounts import access
from app.services.api import repeats
from app.services.data import jobs
from app.services.evaluation import blind
from app.services.hooks import deliveries, outbox
from app.services.labeling import assignments, drafts
from app.services.quality import quality, quality_figures
from app.services.training import devices, run_states, workers
from app.settings import get_settings
from app.worker import job_child, rounds
from app.worker.hooks import deliver
from app.worker.supervise import supervise

logger = logging.getLogger(__name__)

WORKER = f"{socket.gethostname()}:{os.getpid()}"
SEEN_SECONDS = 10.0

_draining = Event()
_last_seen = 0.0


@celery.task(name=run_states.TASK)
def run(run_id: str) -> None:
    """Supervise a run through one attempt, if it is still to be taken."""
    try:
        wanted = UUID(run_id)
    except ValueError:
        logger.exception("a message names no run and is dropped")
        return
    supervise(wanted, WORKER, _draining)


@celery.task(name="plackett.tick")
def tick() -> None:
    """Do what is due: end leases that are over, ring again for what waits, stop blind evaluations that are decided."""
    reconcile()
    with transaction() as session:
        assignments.expire_due(session)
        drafts.discard_answered(session)
    with transaction() as session:
        access.discard_ended_sessions(session)
        repeats.forget_old(session)
        deliveries.forget_old(session)
        workers.forget_old(session)
    with transaction() as session:
        judged = blind.open_ids(session)
    for evaluation_id in judged:
        with transaction() as session:
            blind.follow(session, evaluation_id)
    with transaction() as session:
        quality.forget_old(session)
        if quality.request_due(session):
            after_commit(session, partial(ring, quality.TASK, DEFAULT_QUEUE))
    with transaction() as session:
        jobs.expire(session)
        if jobs.is_due(session):
            after_commit(session, partial(ring, jobs.TASK, DEFAULT_QUEUE))
    rounds.look()
    with transaction() as session:
        if deliveries.is_due(session):
            after_commit(session, partial(ring, outbox.TASK, DEFAULT_QUEUE))


def reconcile() -> None:
    """End the leases that are over and ring for every run that waits. As many processes may do so at once as like."""
    settings = get_settings()
    with transaction() as session:
        run_states.expire_leases(session, settings.run_retry_seconds)
        for due in run_states.take_for_dispatch(session, settings.run_resend_seconds):
            after_commit(session, partial(ring, run_states.TASK, gpu_queue(due.gpus), str(due.run_id)))


@celery.task(name=outbox.TASK)
def webhooks() -> None:
    """Send the webhooks that are due, until none is."""
    while deliver():
        pass


@celery.task(name=jobs.TASK)
def data_jobs() -> None:
    """Have the snapshots and imports that wait made, by a process beside this worker, whose ticks go on meanwhile."""
    job_child.ensure()


@celery.task(name=quality.TASK)
def quality_reports() -> None:
    """Compute the quality reports that wait, each from one moment of the database."""
    while True:
        with transaction() as session:
            report = quality.waiting(session)
        if report is None:
            return
        with reading() as past:
            moment = past.execute(select(func.clock_timestamp())).scalar_one()
            body, problem = _computed(past, report.project_id)
        with transaction() as session:
            quality.store(session, report.id, moment, body, problem)


def _computed(past: Session, project_id: UUID) -> tuple[dict[str, Any] | None, str | None]:
    try:
        return quality_figures.compute(past, project_id), None
    except (ArithmeticError, ValueError, IndexError):
        # Stored as the row's outcome, because a report that nobody can compute would be tried for ever.
        logger.exception("the quality report of project %s failed", project_id)
        return None, "The figures could not be computed. The worker's log says why."


@worker_shutting_down.connect
def _drain(**_: Any) -> None:
    """A worker that was asked to stop lets its trainer save a checkpoint and gives the run back."""
    _draining.set()
    job_child.ask_to_stop()


@heartbeat_sent.connect
def _note_alive(**_: Any) -> None:
    """Celery's own heartbeat of an idle worker, every few seconds; a busy one is noted by its supervisor.

    An idle GPU worker also looks what is due: the worker for small jobs, where ticks arrive, may be busy for minutes.
    """
    global _last_seen  # noqa: PLW0603 # one process, one clock
    now = time.monotonic()
    if now - _last_seen < SEEN_SECONDS or not _serves_gpu_queue():
        return
    _last_seen = now
    try:
        with transaction() as session:
            workers.seen(session, WORKER)
        reconcile()
    except SQLAlchemyError as error:
        logger.warning("could not note that this worker is alive: %s", type(error).__name__)


@celeryd_after_setup.connect
def _offer_devices(instance: Any, **_: Any) -> None:
    """A GPU worker also serves the queues of the larger runs that fit into it."""
    if _serves_gpu_queue():
        for gpus in range(2, devices.count() + 1):
            instance.app.amqp.queues.select_add(gpu_queue(gpus))


def _serves_gpu_queue() -> bool:
    return GPU_QUEUE in celery.amqp.queues.consume_from
