"""The supervisor of one run: claims it, starts the trainer as a child, tells the database what happens, ends it.

Everything it writes goes in under its lease's fence. Without Postgres it lets the trainer go on, but stops it before
the lease can end, by its own monotonic clock; so two trainers never work on one run at the same time.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from threading import Event
from uuid import UUID

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from app.db import transaction
from app.errors import PlackettError
from app.models import Run
from app.services.labeling import outcomes
from app.services.training import run_states, workers
from app.services.training.run_states import Beat, Lease, LostLeaseError
from app.settings import Settings, get_settings
from app.worker import run_folder
from app.worker.child import Child
from trainer.records import EXIT_BAD_INPUT, EXIT_DIVERGED, EXIT_DONE, EXIT_STOPPED, RecordError

logger = logging.getLogger(__name__)

TRAINER = (sys.executable, "-m", "trainer")
POLL_SECONDS = 0.25
FRESH_SECONDS = 2.0
RETRY_WRITE_SECONDS = 2.0
SAFETY_SECONDS = 10.0
CONCLUDE_SECONDS = 600.0
OUTAGES = (OperationalError, InterfaceError, PoolTimeoutError)


class Stop(Enum):
    """Why the supervisor has ended its child, if it did."""

    CANCEL = "cancelled on request"
    DRAIN = "the worker is stopping"
    STALLED = "no progress"
    TOO_LONG = "ran longer than allowed"


@dataclass(frozen=True)
class Ended:
    """How the child ended: its exit status (negative for a signal), and why we stopped it, if we did."""

    code: int
    stop: Stop | None


def supervise(run_id: UUID, worker: str, drain: Event, trainer: tuple[str, ...] = TRAINER) -> None:
    """Carry one run through one attempt. Returns at once when somebody else has it or it is not due."""
    settings = get_settings()
    with transaction() as session:
        lease = run_states.claim(session, run_id, worker, settings.run_lease_seconds)
        if lease is None:
            logger.info("run %s is not to be taken", run_id)
            return
        workers.seen(session, worker)
    try:
        _Attempt(lease, worker, drain, trainer, settings).carry_out()
    except LostLeaseError:
        logger.warning("run %s: lease with fence %s is lost; nothing more is written", run_id, lease.fence)


class _Attempt:
    """One attempt at a run, from the claim to the last word about it."""

    def __init__(self, lease: Lease, worker: str, drain: Event, trainer: tuple[str, ...], settings: Settings) -> None:
        self.lease = lease
        self.worker = worker
        self.drain = drain
        self.trainer = trainer
        self.settings = settings
        self.folder: Path = settings.runs_dir / str(lease.run_id)
        self.method = ""
        self.tail = run_folder.MetricsTail(self.folder)
        self.checkpoints: set[str] = set()
        self.pending: dict[int, dict[str, object]] = {}
        self.safe_until = 0.0
        self._renewed(time.monotonic())

    def carry_out(self) -> None:
        """Prepare, watch, conclude. A fault of ours or of the disk sends the run back to the queue, never silently."""
        try:
            child = self._start()
            ended = self._watch(child)
        except RecordError as error:
            sentence = str(error)
            self._write(lambda session: run_states.fail(session, self.lease, sentence, None))
        except OSError as error:
            sentence = f"The run directory cannot be used: {error}."
            self._retry(sentence, None)
        else:
            self._conclude(ended)

    def _start(self) -> Child:
        with transaction() as session:
            run = session.get_one(Run, self.lease.run_id)
            self.method = run.method
            run_folder.prepare(session, run, self.folder)
        child = Child([*self.trainer, self.method, "--run", str(self.folder)], self.folder)
        try:
            self._write(lambda session: run_states.record_child(session, self.lease, child.pid))
        except LostLeaseError:
            child.kill()
            raise
        return child

    def _watch(self, child: Child) -> Ended:
        """Watch the child until it has ended. Never leaves it running, whatever is raised."""
        try:
            return self._watch_alive(child)
        finally:
            child.kill()

    def _watch_alive(self, child: Child) -> Ended:
        started = progressed = last_beat = time.monotonic()
        stop: Stop | None = None
        kill_at = float("inf")
        while (code := child.wait(POLL_SECONDS)) is None:
            now = time.monotonic()
            fresh = self.tail.read()
            if fresh:
                self.pending.update(fresh)
                progressed = now
            wanted = stop
            # New numbers are brought in at a calm pace; without any, the lease alone sets it.
            pause = min(FRESH_SECONDS, self.settings.run_heartbeat_seconds) if self.pending else None
            if now - last_beat >= (pause or self.settings.run_heartbeat_seconds):
                last_beat = now
                if self._beat():
                    wanted = Stop.CANCEL
            if self.drain.is_set():
                wanted = wanted or Stop.DRAIN
            if now - progressed > self.settings.run_stall_seconds:
                wanted = wanted or Stop.STALLED
            if now - started > self.settings.run_wall_seconds:
                wanted = wanted or Stop.TOO_LONG
            if wanted is not None and stop is None:
                stop, kill_at = wanted, now + self.settings.cancel_grace_seconds
                child.ask_to_stop()
            if time.monotonic() > self.safe_until:
                raise LostLeaseError("Postgres did not answer for as long as the lease lasts.")
            if now > kill_at:
                child.kill()
        return Ended(code, stop)

    def _beat(self) -> bool:
        """Renew the lease and store what was seen; return whether a cancel is asked for. False when nobody answers."""
        began = time.monotonic()
        known = set(self.checkpoints)
        beat = self._seen()
        try:
            with transaction() as session:
                asked = run_states.heartbeat(session, self.lease, self.settings.run_lease_seconds, beat)
                workers.seen(session, self.worker)
        except OUTAGES as error:
            logger.warning("run %s: no heartbeat, %s", self.lease.run_id, type(error).__name__)
            self.checkpoints = known
            return False
        self.pending = {}
        self._renewed(began)
        return asked

    def _seen(self) -> Beat:
        return Beat(
            step=max(self.pending, default=None),
            total=_total(self.pending),
            log_tail=run_folder.log_tail(self.folder),
            metrics=self.pending,
            checkpoints=run_folder.new_checkpoints(self.folder, self.checkpoints),
        )

    def _renewed(self, began: float) -> None:
        """Note until when the child may work: the lease counted from before the heartbeat, less a margin."""
        lease = self.settings.run_lease_seconds
        self.safe_until = began + lease - min(SAFETY_SECONDS, lease / 6)

    def _conclude(self, ended: Ended) -> None:
        """Bring in the last lines, then say how the attempt ended."""
        self.pending.update(self.tail.read())
        last = self._seen()
        # The child is gone, so only our own reading and hashing is left, which a short lease might not cover.
        self._write(lambda session: run_states.heartbeat(session, self.lease, CONCLUDE_SECONDS, last))
        code, stop = ended.code, ended.stop
        if code == EXIT_DONE:
            self._finish()
        elif stop is Stop.CANCEL:
            self._write(lambda session: run_states.confirm_cancel(session, self.lease, code))
        elif stop is Stop.DRAIN or (code == EXIT_STOPPED and stop is None):
            reason = "The worker was stopped; another one takes over." if stop else "The trainer was asked to stop."
            self._write(lambda session: run_states.give_back(session, self.lease, reason, code))
        elif stop is Stop.TOO_LONG:
            hours = self.settings.run_wall_seconds / 3600
            self._fail(f"The run took longer than the {hours:g} hours an attempt may last.", code)
        elif stop is Stop.STALLED:
            minutes = self.settings.run_stall_seconds / 60
            self._retry(f"There was no progress for {minutes:g} minutes.", code)
        elif code in (EXIT_BAD_INPUT, EXIT_DIVERGED):
            self._fail(run_folder.last_sentence(self.folder), code)
        else:
            how = f"was ended by {_signal_name(-code)}" if code < 0 else f"ended with code {code}"
            self._retry(f"The trainer {how}: {run_folder.last_sentence(self.folder)}", code)

    def _finish(self) -> None:
        try:
            outcome = outcomes.read(self.method, self.folder)
        except RecordError as error:
            self._retry(f"The trainer ended well, but its results are not complete: {error}", EXIT_DONE)
            return

        def store(session: Session) -> None:
            run_states.finish(session, self.lease, outcome.report)
            outcomes.store(session, session.get_one(Run, self.lease.run_id), outcome)

        try:
            self._write(store)
        except (RecordError, PlackettError) as error:
            self._fail(str(error), EXIT_DONE)

    def _fail(self, reason: str, code: int | None) -> None:
        self._write(lambda session: run_states.fail(session, self.lease, reason, code))

    def _retry(self, reason: str, code: int | None) -> None:
        pause = self.settings.run_retry_seconds
        self._write(lambda session: run_states.retry(session, self.lease, reason, code, pause))

    def _write(self, change: Callable[[Session], object]) -> None:
        """Make one change under the fence, however long Postgres is away: the fence says if it comes too late."""
        while True:
            try:
                with transaction() as session:
                    change(session)
            except OUTAGES as error:
                logger.warning("run %s: the last word waits for Postgres, %s", self.lease.run_id, type(error).__name__)
                if self.drain.wait(RETRY_WRITE_SECONDS):
                    raise LostLeaseError("The worker is stopping while Postgres is away.") from error
            else:
                return


def _total(metrics: dict[int, dict[str, object]]) -> int | None:
    value = metrics[max(metrics)].get("total_steps") if metrics else None
    return value if isinstance(value, int) else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
