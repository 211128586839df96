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
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy.orm import Session

from app import logs
from app.db import transaction
from app.errors import PlackettError
from app.models import Run
from app.services.labeling import outcomes
from app.services.training import artifacts, devices, run_states, workers
from app.services.training.run_states import Beat, Lease, LostLeaseError
from app.settings import Settings, get_settings
from app.worker import run_folder, trackers
from app.worker.checkpoint_watch import CheckpointWatch
from app.worker.child import Child, NewerAttemptError, Training
from app.worker.errand import Errand
from app.worker.pulse import OUTAGES, Pulse
from app.worker.ray_child import ClusterAwayError, ClusterError, RayChild
from app.worker.tracker_child import Tracking
from trainer.jsonl import RecordError
from trainer.records import EXIT_BAD_INPUT, EXIT_DIVERGED, EXIT_DONE, EXIT_STOPPED

logger = logging.getLogger(__name__)

T = TypeVar("T")

TRAINER = (sys.executable, "-m", "trainer")
SPAWN = (sys.executable, "-m", "trainer.spawn")
POLL_SECONDS = 0.25
RETRY_WRITE_SECONDS = 2.0


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
    claimed = time.monotonic()
    with transaction() as session:
        lease = run_states.claim(session, run_id, worker, settings.run_lease_seconds, devices.count())
        if lease is None:
            logger.info("run %s is not to be taken", run_id)
            return
        workers.seen(session, worker)
    with logs.context(run_id=str(run_id), fence=lease.fence, attempt=lease.attempt):
        try:
            _Attempt(lease, worker, drain, trainer, settings, claimed).carry_out()
        except (LostLeaseError, NewerAttemptError):
            logger.warning("run %s: lease with fence %s is lost; nothing more is written", run_id, lease.fence)


class _Attempt:
    """One attempt at a run, from the claim to the last word about it."""

    def __init__(
        self, lease: Lease, worker: str, drain: Event, trainer: tuple[str, ...], settings: Settings, claimed: float
    ) -> None:
        self.lease = lease
        self.drain = drain
        self.trainer = trainer
        self.settings = settings
        self.folder: Path = settings.runs_dir / str(lease.run_id)
        self.method = ""
        self.pid: int | None = None
        self.tail = run_folder.MetricsTail(self.folder)
        self.watch: CheckpointWatch | None = None
        self.tracking: Tracking | None = None
        self.outcome = trackers.STOPPED
        self.pending: dict[int, dict[str, object]] = {}
        self.pulse = Pulse(lease, worker, settings, claimed, self._seen, self._bring_back)

    def carry_out(self) -> None:
        """Prepare, watch, conclude. A fault of ours or of the disk sends the run back to the queue, never silently."""
        try:
            child = self._start()
            if child is None:
                stopped = "The worker was stopped before it began; another one takes over."
                self._give_back("Cancelled on request." if self.pulse.cancel_asked else stopped, None)
                return
            ended = self._watch(child)
        except RecordError as error:
            self._fail(str(error), None)
        except ClusterAwayError as error:
            self._give_back(str(error), None, self.settings.run_retry_seconds)
        except ClusterError as error:
            self._retry(str(error), None)
        except OSError as error:
            self._retry(f"The run directory cannot be used: {error}.", None)
        else:
            self._conclude(ended)
        finally:
            if self.tracking is not None:
                self.tracking.end(self.outcome)

    def _start(self) -> Training | None:
        """Make the run directory and start the trainer in it; None when it is called off before that."""
        plan = self._write(lambda session: run_folder.plan(session, session.get_one(Run, self.lease.run_id)))
        self.method = plan.method
        making = Errand(lambda: run_folder.prepare(plan, self.folder, self.lease.fence))
        if self._called_off_before(making):
            return None
        making.settle()
        self.watch = CheckpointWatch(self.folder, plan.checkpoints, artifacts.publish)
        training = self._on_cluster(plan.gpus) if self.settings.ray_address else self._here(plan.gpus)
        if training is None:
            return None
        self.pid = training.pid
        self._track()
        logger.info("the trainer has started", extra=logs.fields(method=self.method, gpus=plan.gpus, trainer=self.pid))
        return training

    def _track(self) -> None:
        if self.settings.tracker is None:
            return
        try:
            self.tracking = Tracking(self.settings.tracker, self.settings.tracker_project, self.folder)
        except OSError as error:
            logger.warning("the run is not tracked: %s", error)

    def _here(self, gpus: int) -> Child:
        trainer = self.trainer if gpus == 1 else (*SPAWN, str(gpus))
        command = [*trainer, self.method, "--run", str(self.folder)]
        return Child(command, self.folder, self.lease.fence)

    def _on_cluster(self, gpus: int) -> RayChild | None:
        """Start on the cluster; that it has room may take a while, and so may sending. None when it is called off."""
        address = str(self.settings.ray_address)
        trainer = () if self.trainer == TRAINER else self.trainer  # the far end has a Python of its own
        gpu = not self.settings.trainer_device.startswith("cpu")
        off = Event()
        starting = Errand(lambda: RayChild(address, trainer, self.method, self.folder, gpus, off, gpu=gpu))
        wanted = False
        try:
            wanted = not self._called_off_before(starting)
        finally:
            if not wanted:
                off.set()
                Errand(lambda: starting.settle().kill())  # in case it had started already
        return starting.settle() if wanted else None

    def _called_off_before(self, errand: Errand[Any]) -> bool:
        """Keep the lease until the errand is over; True as soon as the worker is to stop or the run is cancelled."""
        while errand.is_alive():
            errand.join(POLL_SECONDS)
            self._look()
            if self.drain.is_set() or self.pulse.cancel_asked:
                return True
        return False

    def _watch(self, child: Training) -> Ended:
        """Watch the child until it has ended. Never leaves it running, whatever is raised."""
        try:
            return self._watch_alive(child)
        finally:
            child.kill()

    def _watch_alive(self, child: Training) -> Ended:
        started = progressed = time.monotonic()
        stop: Stop | None = None
        kill_at = float("inf")
        while (code := child.wait(POLL_SECONDS)) is None:
            now = time.monotonic()
            if self._read_metrics():
                progressed = now
            self._look()
            if stop is None and (stop := self._reason_to_stop(now - started, now - progressed)) is not None:
                kill_at = now + self.settings.cancel_grace_seconds
                child.ask_to_stop()
            if now > kill_at:
                child.kill()
        return Ended(code, stop)

    def _reason_to_stop(self, seconds: float, silent: float) -> Stop | None:
        if self.pulse.cancel_asked:
            return Stop.CANCEL
        if self.drain.is_set():
            return Stop.DRAIN
        if silent > self.settings.run_stall_seconds:
            return Stop.STALLED
        return Stop.TOO_LONG if seconds > self.settings.run_wall_seconds else None

    def _look(self) -> None:
        """Beat, and give up in time where nobody hears it."""
        self.pulse.look(news=bool(self.pending))
        if not self.pulse.is_safe:
            raise LostLeaseError("Postgres did not answer for as long as the lease lasts.")

    def _read_metrics(self) -> bool:
        fresh = self.tail.read()
        self.pending.update(fresh)
        return bool(fresh)

    def _seen(self) -> Beat:
        metrics, self.pending = self.pending, {}
        return Beat(
            step=max(metrics, default=None),
            total=_total(metrics),
            log_tail=run_folder.log_tail(self.folder),
            metrics=metrics,
            checkpoints=self.watch.take() if self.watch else (),
            pid=self.pid,
        )

    def _bring_back(self, beat: Beat) -> None:
        """Keep what a heartbeat could not deliver for the next one."""
        self.pending = {**beat.metrics, **self.pending}
        if self.watch is not None:
            self.watch.bring_back(list(beat.checkpoints))

    def _meanwhile(self, work: Callable[[], T]) -> T:
        """Do something slow once the child is gone, and keep the lease. Without Postgres too: the fence decides."""
        errand = Errand(work)
        while errand.is_alive():
            errand.join(POLL_SECONDS)
            self.pulse.look(news=False)
        return errand.settle()

    def _conclude(self, ended: Ended) -> None:
        """Bring in the last lines and checkpoints, then say how the attempt ended."""
        if self.watch is not None:
            self._meanwhile(self.watch.finish)
        self.pulse.end()
        self._read_metrics()
        last = self._seen()
        seconds = self.settings.run_lease_seconds
        self._write(lambda session: run_states.heartbeat(session, self.lease, seconds, last))
        code, stop = ended.code, ended.stop
        if code == EXIT_DONE:
            self._finish()
        elif stop is Stop.CANCEL:
            self._write(lambda session: run_states.confirm_cancel(session, self.lease, code))
            logger.info("the run is cancelled", extra=logs.fields(exit_code=code))
        elif stop is Stop.DRAIN or (code == EXIT_STOPPED and stop is None):
            reason = "The worker was stopped; another one takes over." if stop else "The trainer was asked to stop."
            self._give_back(reason, code)
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
            outcome = self._meanwhile(lambda: outcomes.read(self.method, self.folder))
        except RecordError as error:
            self._retry(f"The trainer ended well, but its results are not complete: {error}", EXIT_DONE)
            return
        except OSError as error:
            self._retry(f"The trainer ended well, but its results could not be stored: {error}", EXIT_DONE)
            return

        self.pulse.end()

        def store(session: Session) -> None:
            run_states.finish(session, self.lease, outcome.report)
            outcomes.store(session, session.get_one(Run, self.lease.run_id), outcome)

        try:
            self._write(store)
        except (RecordError, PlackettError) as error:
            self._fail(str(error), EXIT_DONE)
        else:
            self.outcome = trackers.SUCCEEDED
            logger.info("the run has succeeded")
            self._tidy()

    def _tidy(self) -> None:
        """Remove the checkpoints of a run that has its result from the store; nobody will go on from them."""
        try:
            with transaction() as session:
                found = run_states.registered(session, self.lease.run_id)
            for one in found:
                if artifacts.is_stored(one.uri):
                    artifacts.discard(one.uri)
        except (*OUTAGES, OSError) as error:
            logger.warning("run %s: its checkpoints stay in the store: %s", self.lease.run_id, error)

    def _give_back(self, reason: str, code: int | None, pause: float = 0.0) -> None:
        self._write(lambda session: run_states.give_back(session, self.lease, reason, code, pause))
        logger.info("the run is given back: %s", reason, extra=logs.fields(exit_code=code))

    def _fail(self, reason: str, code: int | None) -> None:
        self.outcome = trackers.FAILED
        self._write(lambda session: run_states.fail(session, self.lease, reason, code))
        logger.warning("the run has failed: %s", reason, extra=logs.fields(exit_code=code))

    def _retry(self, reason: str, code: int | None) -> None:
        pause = self.settings.run_retry_seconds
        self._write(lambda session: run_states.retry(session, self.lease, reason, code, pause))
        logger.warning("the attempt has ended, the run is tried again: %s", reason, extra=logs.fields(exit_code=code))

    def _write(self, change: Callable[[Session], T]) -> T:
        """Make one change, however long Postgres is away: the fence says if it comes too late. No child runs now."""
        while True:
            try:
                with transaction() as session:
                    return change(session)
            except OUTAGES as error:
                logger.warning("run %s: a word to Postgres waits, %s", self.lease.run_id, type(error).__name__)
                if self.drain.wait(RETRY_WRITE_SECONDS):
                    raise LostLeaseError("The worker is stopping while Postgres is away.") from error


def _total(metrics: dict[int, dict[str, object]]) -> int | None:
    value = metrics[max(metrics)].get("total_steps") if metrics else None
    return value if isinstance(value, int) else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
