"""The state machine of runs: every arrow is one guarded UPDATE and one event, in the caller's transaction.

    (none) ─► queued ─claim─► running ─finish─► succeeded
                ▲  └─cancel─► cancelled ◄─confirmed─┤
                └── retry, give back, lease over ───┴─► failed

A supervisor holds a `Lease`. Its fence comes from one global sequence, so what an earlier holder of the same run
still tries to write finds no row, and raises `LostLeaseError`: it must then kill its child and write nothing more.
Only Postgres' clock decides what is due or over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, case, func, insert, or_, select, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.errors import ConflictError, NotFoundError
from app.models import Checkpoint, Run, RunAttempt, RunEvent, RunMetric
from app.models.training import FENCE, TERMINAL_STATES
from app.services.hooks import outbox

TASK = "plackett.run"
LONGEST_DOUBLING = 6
NOW = func.clock_timestamp()


class LostLeaseError(RuntimeError):
    """Another worker may have this run now. Kill the child and write nothing."""


@dataclass(frozen=True)
class Lease:
    """The right to write about one run, for as long as no later claim has a larger fence."""

    run_id: UUID
    fence: int
    attempt: int


@dataclass(frozen=True)
class NewCheckpoint:
    """A checkpoint whose manifest the supervisor has verified."""

    step: int
    uri: str
    manifest_sha256: str


@dataclass(frozen=True)
class Beat:
    """What a supervisor has seen since its last heartbeat. `metrics` maps a step to its numbers."""

    step: int | None = None
    total: int | None = None
    log_tail: str = ""
    metrics: dict[int, dict[str, Any]] = field(default_factory=dict)
    checkpoints: Sequence[NewCheckpoint] = ()
    pid: int | None = None


@dataclass(frozen=True)
class Due:
    """A queued run that is to be rung for, and how many GPUs it asks for."""

    run_id: UUID
    gpus: int


def claim(session: Session, run_id: UUID, worker: str, lease_seconds: float, gpus: int = 1) -> Lease | None:
    """Take a queued run that is due and asks for no more than `gpus`. None when there is nothing to take.

    So a message that is late, repeated or sent to a worker too small for the run changes nothing.
    """
    row = session.execute(
        update(Run)
        .where(Run.id == run_id, Run.state == "queued", Run.not_before <= NOW, Run.gpus <= gpus)
        .values(
            state="running",
            state_reason=None,
            fence=FENCE.next_value(),
            attempt=Run.attempt + 1,
            fruitless=Run.fruitless + 1,  # until it makes a new checkpoint
            lease_owner=worker,
            lease_until=NOW + timedelta(seconds=lease_seconds),
            started_at=func.coalesce(Run.started_at, NOW),
        )
        .returning(Run.fence, Run.attempt),
        execution_options={"synchronize_session": False},
    ).one_or_none()
    if row is None:
        return None
    lease = Lease(run_id, row.fence, row.attempt)
    session.execute(insert(RunAttempt).values(fence=lease.fence, run_id=run_id, worker=worker))
    _event(session, run_id, lease.fence, "claimed", "queued", "running", f"Attempt {lease.attempt} on {worker}.")
    return lease


def heartbeat(session: Session, lease: Lease, lease_seconds: float, beat: Beat) -> bool:
    """Prolong the lease, store what was seen, and return whether somebody asked for the run to be cancelled.

    The UPDATE locks the run's row, so metrics and checkpoints go in under the same fence.
    """
    step = func.coalesce(beat.step, Run.progress_step)
    row = _one(
        session.execute(
            update(Run)
            .where(*_held(lease))
            .values(
                lease_until=NOW + timedelta(seconds=lease_seconds),
                progress_at=case((step.is_distinct_from(Run.progress_step), NOW), else_=Run.progress_at),
                progress_step=step,
                progress_total=func.coalesce(beat.total, Run.progress_total),
                log_tail=beat.log_tail,
            )
            .returning(Run.cancel_requested_at),
            execution_options={"synchronize_session": False},
        ).one_or_none()
    )
    if beat.metrics:
        rows = [{"run_id": lease.run_id, "step": step, "values": values} for step, values in beat.metrics.items()]
        statement = upsert(RunMetric).values(rows)
        session.execute(
            # A resumed run computes some steps again; the later numbers are the ones that led to its result.
            statement.on_conflict_do_update(
                index_elements=[RunMetric.run_id, RunMetric.step], set_={"values": statement.excluded["values"]}
            )
        )
    if beat.pid is not None:
        session.execute(
            update(RunAttempt).where(RunAttempt.fence == lease.fence, RunAttempt.pid.is_(None)).values(pid=beat.pid)
        )
    if beat.checkpoints:
        _add_checkpoints(session, lease, beat.checkpoints)
    return row.cancel_requested_at is not None


def registered(session: Session, run_id: UUID) -> list[NewCheckpoint]:
    """Return the run's registered checkpoints, the newest first; of those of one step the latest attempt's."""
    rows = session.scalars(
        select(Checkpoint)
        .where(Checkpoint.run_id == run_id)
        .ext(distinct_on(Checkpoint.step))
        .order_by(Checkpoint.step.desc(), Checkpoint.fence.desc())
    )
    return [NewCheckpoint(row.step, row.uri, row.manifest_sha256) for row in rows]


def _add_checkpoints(session: Session, lease: Lease, checkpoints: Sequence[NewCheckpoint]) -> None:
    """Register what was verified, under the run's row lock. A step never reached before makes the attempt worth it."""
    best = session.scalar(select(func.max(Checkpoint.step)).where(Checkpoint.run_id == lease.run_id)) or 0
    if max(found.step for found in checkpoints) > best:
        session.execute(
            update(Run).where(Run.id == lease.run_id).values(fruitless=0),
            execution_options={"synchronize_session": False},
        )
    for found in checkpoints:
        session.execute(
            upsert(Checkpoint)
            .values(
                run_id=lease.run_id,
                fence=lease.fence,
                step=found.step,
                uri=found.uri,
                manifest_sha256=found.manifest_sha256,
            )
            .on_conflict_do_nothing()
        )
        _event(session, lease.run_id, lease.fence, "checkpoint", "running", "running", f"Step {found.step}.")


def finish(session: Session, lease: Lease, report: dict[str, Any] | None) -> None:
    """running → succeeded. What the run yields (a model, answers) is stored by the caller in this transaction."""
    _end(session, lease, exit_code=0, kind="finished", state="succeeded", reason=None, report=report)


def fail(session: Session, lease: Lease, reason: str, exit_code: int | None) -> None:
    """running → failed, for good: the same run again would end the same way."""
    _end(session, lease, exit_code=exit_code, kind="failed", state="failed", reason=reason)


def confirm_cancel(session: Session, lease: Lease, exit_code: int | None) -> None:
    """running → cancelled: the child is gone."""
    _end(session, lease, exit_code=exit_code, kind="cancelled", state="cancelled", reason="Cancelled on request.")


def retry(session: Session, lease: Lease, reason: str, exit_code: int | None, pause_seconds: float) -> str:
    """running → queued after a crash, with a pause; failed when the attempts are spent. Returns the new state."""
    row = _one(
        session.execute(
            update(Run)
            .where(*_held(lease))
            .values(**_after_crash(pause_seconds, reason))
            .returning(Run.state, Run.state_reason),
            execution_options={"synchronize_session": False},
        ).one_or_none()
    )
    _end_attempt(session, lease.fence, row.state, exit_code)
    _event(session, lease.run_id, lease.fence, "crashed", "running", row.state, row.state_reason)
    return str(row.state)


def give_back(session: Session, lease: Lease, reason: str, exit_code: int | None, pause_seconds: float = 0.0) -> None:
    """running → queued for a reason that lies not in the run, as a worker that stops; the attempt does not count."""
    row = _one(
        session.execute(
            update(Run)
            .where(*_held(lease))
            .values(
                state=case((Run.cancel_requested_at.is_not(None), "cancelled"), else_="queued"),
                finished_at=case((Run.cancel_requested_at.is_not(None), NOW)),
                state_reason=reason,
                attempt=Run.attempt - 1,
                fruitless=func.greatest(Run.fruitless - 1, 0),
                lease_owner=None,
                lease_until=None,
                not_before=NOW + timedelta(seconds=pause_seconds),
                dispatched_at=None,
            )
            .returning(Run.state),
            execution_options={"synchronize_session": False},
        ).one_or_none()
    )
    _end_attempt(session, lease.fence, "given back", exit_code)
    _event(session, lease.run_id, lease.fence, "given_back", "running", row.state, reason)


def request_cancel(session: Session, run_id: UUID, user_id: UUID) -> str:
    """Cancel a queued run at once; of a running one set the flag that its supervisor reads. Returns the state.

    Asking twice is the same as asking once. A run that has ended is a `ConflictError`.
    """
    queued = Run.state == "queued"
    row = session.execute(
        update(Run)
        .where(Run.id == run_id, Run.state.in_(("queued", "running")), Run.cancel_requested_at.is_(None))
        .values(
            state=case((queued, "cancelled"), else_=Run.state),
            state_reason=case((queued, "Cancelled before it started."), else_="Stopping on request."),
            finished_at=case((queued, NOW)),
            cancel_requested_at=NOW,
            cancel_requested_by=user_id,
        )
        .returning(Run.state, Run.fence),
        execution_options={"synchronize_session": False},
    ).one_or_none()
    if row is not None:
        if row.state == "cancelled":
            _event(session, run_id, row.fence, "cancelled", "queued", "cancelled", None)
        else:
            _event(session, run_id, row.fence, "cancel_requested", "running", "running", None)
        return str(row.state)
    state = session.scalar(select(Run.state).where(Run.id == run_id))
    if state is None:
        raise NotFoundError("There is no such run.")
    if state in TERMINAL_STATES and state != "cancelled":
        raise ConflictError(f"This run has already {state}, so there is nothing to cancel.")
    return state


def expire_leases(session: Session, pause_seconds: float) -> list[UUID]:
    """Take every run whose supervisor has gone silent back to queued (or cancelled, or failed); return their ids.

    The first time without a pause: a machine that dies is rarely the run's fault, and the lease was a pause already.
    """
    reason = "The worker stopped answering."
    rows = session.execute(
        update(Run)
        .where(Run.state == "running", Run.lease_until < NOW)
        .values(**_after_crash(pause_seconds, reason, free=1))
        .returning(Run.id, Run.fence, Run.state, Run.state_reason),
        execution_options={"synchronize_session": False},
    ).all()
    for row in rows:
        _end_attempt(session, row.fence, "lease over", None)
        _event(session, row.id, row.fence, "lease_expired", "running", row.state, row.state_reason)
    return [row.id for row in rows]


def take_for_dispatch(session: Session, resend_seconds: float) -> list[Due]:
    """Mark the queued runs that are due and were not sent lately, and return them to be rung for after the commit."""
    rows = session.execute(
        update(Run)
        .where(
            Run.state == "queued",
            Run.not_before <= NOW,
            or_(Run.dispatched_at.is_(None), Run.dispatched_at < NOW - timedelta(seconds=resend_seconds)),
        )
        .values(dispatched_at=NOW)
        .returning(Run.id, Run.gpus, Run.created_at),
        execution_options={"synchronize_session": False},
    ).all()
    return [Due(row.id, row.gpus) for row in sorted(rows, key=lambda row: row.created_at)]


def mark_dispatched(session: Session, run_id: UUID) -> None:
    """Note that the broker has taken the message of a run."""
    session.execute(
        update(Run).where(Run.id == run_id, Run.state == "queued").values(dispatched_at=NOW),
        execution_options={"synchronize_session": False},
    )


def record_created(session: Session, run: Run) -> None:
    """Write the first event of a run, in the transaction that makes it."""
    _event(session, run.id, None, "created", None, "queued", None)


def _held(lease: Lease) -> tuple[ColumnElement[bool], ...]:
    return Run.id == lease.run_id, Run.fence == lease.fence, Run.state == "running"


def _one(row: Row[*tuple[Any, ...]] | None) -> Row[*tuple[Any, ...]]:
    if row is None:
        raise LostLeaseError("The lease of this run is lost.")
    return row


def _after_crash(pause_seconds: float, reason: str, free: int = 0) -> dict[str, Any]:
    """Columns of a run whose attempt ended badly: cancelled if asked, failed if it was the last, else queued again.

    It was the last when `max_attempts` in a row have made no new checkpoint: such a run is set aside, or it would go on
    killing workers. The pause doubles with each of those attempts; the first `free` of them have none.
    """
    asked, spent = Run.cancel_requested_at.is_not(None), Run.fruitless >= Run.max_attempts
    barren = func.least(func.greatest(Run.fruitless, 1), LONGEST_DOUBLING)
    aside = func.format("%s The run is set aside after %s attempts without a new checkpoint.", reason, Run.fruitless)
    return {
        "state": case((asked, "cancelled"), (spent, "failed"), else_="queued"),
        "state_reason": case((asked, reason), (spent, aside), else_=reason),
        "finished_at": case((or_(asked, spent), NOW)),
        "lease_owner": None,
        "lease_until": None,
        "not_before": NOW + timedelta(seconds=pause_seconds) * (func.power(2, barren - 1) - free),
        "dispatched_at": None,
    }


def _end(
    session: Session, lease: Lease, *, exit_code: int | None, kind: str, state: str, reason: str | None, **values: Any
) -> None:
    _one(
        session.execute(
            update(Run)
            .where(*_held(lease))
            .values(state=state, state_reason=reason, finished_at=NOW, lease_owner=None, lease_until=None, **values)
            .returning(Run.id),
            execution_options={"synchronize_session": False},
        ).one_or_none()
    )
    _end_attempt(session, lease.fence, state, exit_code)
    _event(session, lease.run_id, lease.fence, kind, "running", state, reason)


def _end_attempt(session: Session, fence: int, outcome: str, exit_code: int | None) -> None:
    session.execute(
        update(RunAttempt).where(RunAttempt.fence == fence).values(ended_at=NOW, outcome=outcome, exit_code=exit_code),
        execution_options={"synchronize_session": False},
    )


def _event(
    session: Session, run_id: UUID, fence: int | None, kind: str, before: str | None, after: str, detail: str | None
) -> None:
    session.execute(
        insert(RunEvent).values(run_id=run_id, fence=fence, kind=kind, from_state=before, to_state=after, detail=detail)
    )
    if after in TERMINAL_STATES:
        outbox.announce_run(session, run_id, after)
