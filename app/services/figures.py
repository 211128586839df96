"""Figures for Prometheus, read at the moment of asking: from Postgres, so that every web process gives the same answer,
and the times of submits from what the web processes of this host have counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from app.latency import BOUNDS, Histogram
from app.models import Assignment, AuditEvent, Run, Worker
from app.models.training import RUN_STATES
from app.services.accounts import backups
from app.settings import get_settings

NOW = func.clock_timestamp()
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Gauge:
    """One figure with its values by label. A figure that cannot be said just now has none."""

    name: str
    help: str
    values: tuple[tuple[dict[str, str], float], ...]


def gauges(session: Session) -> list[Gauge]:
    """Return the figures that Postgres knows. Ages are in seconds, by the clock of Postgres."""
    by_state = session.execute(select(Run.state, func.count().label("runs")).group_by(Run.state)).all()
    states = {row.state: row.runs for row in by_state}
    seen = session.execute(select(Worker.queue, _age(func.max(Worker.seen_at)).label("age")).group_by(Worker.queue))
    queued, running = Run.state == "queued", Run.state == "running"
    waits = select(_age(func.min(Run.not_before))).where(queued, Run.not_before <= NOW)
    over = select(_age(func.min(Run.lease_until))).where(running, Run.lease_until < NOW)
    still = select(_age(func.min(func.coalesce(Run.progress_at, Run.started_at)))).where(running)
    lease = timedelta(seconds=get_settings().run_lease_seconds)
    heard = select(_age(func.min(Run.lease_until) - lease)).where(running)
    held = select(func.count()).select_from(Assignment).where(Assignment.state == "leased", Assignment.expires_at > NOW)
    saved, proved = (
        select(func.extract("epoch", func.max(AuditEvent.at))).where(AuditEvent.action == action)
        for action in (backups.MADE, backups.VERIFIED)
    )
    return [
        Gauge("runs", "Runs by state.", tuple(({"state": state}, states.get(state, 0)) for state in RUN_STATES)),
        _gauge("run_queue_age_seconds", "How long the oldest due run waits.", session.scalar(waits) or 0),
        _gauge("run_lease_over_seconds", "How long a running run has been without a lease.", session.scalar(over) or 0),
        _gauge("run_progress_age_seconds", "Longest time since a running run's last step.", session.scalar(still) or 0),
        Gauge(
            "worker_seen_age_seconds",
            "Time since the last sign of life of any worker of a queue.",
            tuple(({"queue": row.queue}, float(row.age)) for row in seen),
        ),
        _gauge(
            "run_heartbeat_age_seconds", "Longest time since a running run's heartbeat.", session.scalar(heard) or 0
        ),
        _gauge("open_leases", "Tasks that labelers have in hand.", session.scalar(held)),
        _gauge(
            "last_backup_timestamp_seconds", "When a backup was last made; no value if never.", session.scalar(saved)
        ),
        _gauge(
            "last_verified_restore_timestamp_seconds",
            "When a backup was last proved to come back; no value if never.",
            session.scalar(proved),
        ),
    ]


def exposition(found: list[Gauge], submits: Histogram) -> str:
    """Return the figures in Prometheus' text format."""
    lines = [line for gauge in found for line in _lines(gauge)]
    return "".join(f"{line}\n" for line in (*lines, *_histogram(submits)))


def _histogram(found: Histogram) -> Iterator[str]:
    name = "plackett_submit_seconds"
    yield f"# HELP {name} Time from a labeler's request until Postgres has confirmed what it sent."
    yield f"# TYPE {name} histogram"
    for bound, value in zip(BOUNDS, found.buckets, strict=True):
        yield f'{name}_bucket{{le="{bound!r}"}} {value!r}'
    yield f'{name}_bucket{{le="+Inf"}} {found.number!r}'
    yield f"{name}_sum {found.seconds!r}"
    yield f"{name}_count {found.number!r}"


def _lines(gauge: Gauge) -> Iterator[str]:
    name = f"plackett_{gauge.name}"
    yield f"# HELP {name} {gauge.help}"
    yield f"# TYPE {name} gauge"
    for labels, value in gauge.values:
        said = ",".join(f'{key}="{_escaped(item)}"' for key, item in labels.items())
        yield f"{name}{{{said}}} {value!r}" if said else f"{name} {value!r}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _gauge(name: str, help_text: str, value: object) -> Gauge:
    return Gauge(name, help_text, () if value is None else (({}, float(str(value))),))


def _age(moment: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.extract("epoch", NOW - moment)
