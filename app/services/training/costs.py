"""What runs cost: GPU hours, from the first moment of each attempt to its last, times the devices it held.

An attempt whose worker died counts until its lease was over, because until then no other run could have its devices. A
CPU counts as one device.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from app.models import Run, RunAttempt

_SECONDS: ColumnElement[float] = func.coalesce(
    func.sum(
        func.extract("epoch", func.coalesce(RunAttempt.ended_at, func.clock_timestamp()) - RunAttempt.started_at)
        * Run.gpus
    ),
    0,
)


def hours_of(session: Session, run_ids: Sequence[UUID]) -> dict[UUID, float]:
    """Return the GPU hours so far of each of these runs that was ever started."""
    rows = session.execute(
        select(Run.id, _SECONDS)
        .select_from(RunAttempt)
        .join(Run, Run.id == RunAttempt.run_id)
        .where(Run.id.in_(run_ids))
        .group_by(Run.id)
    )
    return {run_id: float(seconds) / 3600 for run_id, seconds in rows}


def hours_of_project(session: Session, project_id: UUID) -> float:
    """Return the GPU hours that all runs of a project have cost so far."""
    seconds = session.scalar(
        select(_SECONDS)
        .select_from(RunAttempt)
        .join(Run, Run.id == RunAttempt.run_id)
        .where(Run.project_id == project_id)
    )
    return float(seconds or 0) / 3600


def spoken(hours: float) -> str:
    """Return GPU hours with the digits that matter."""
    if 0 < hours < 0.01:
        return "under 0.01"
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 10 else f"{hours:.2f}"
