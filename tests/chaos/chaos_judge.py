"""What must be true after all faults, read from the tables and the files alone. An empty list is an acquittal."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.models import ModelVersion, Occurrence, Pipeline, Run, RunAttempt, RunEvent, RunMetric, Schedule
from app.models.training import TERMINAL_STATES
from trainer.manifest import file_sha256, verify_manifest


def due_times(session: Session, first: dict[UUID, datetime]) -> list[str]:
    """Each due time of each schedule, from its first on, has exactly one row; and each round one run of its own."""
    problems = []
    for schedule in session.scalars(select(Schedule)):
        count = int((schedule.next_due_at - first[schedule.id]) / timedelta(minutes=1))
        wanted = {first[schedule.id] + timedelta(minutes=number) for number in range(count)}
        found = Counter(
            session.scalars(
                select(Occurrence.due_at).where(Occurrence.schedule_id == schedule.id, Occurrence.asked_by.is_(None))
            )
        )
        problems += [
            f"{schedule.name}: due {due} has {found[due]} rows" for due in wanted | set(found) if found[due] != 1
        ]
    started = session.scalar(select(func.count()).where(Occurrence.state == "started").select_from(Occurrence))
    rounds, runs = (session.scalar(select(func.count()).select_from(one)) for one in (Pipeline, Run))
    if not started == rounds == runs:
        problems.append(f"{started} due times were started, as {rounds} rounds with {runs} runs")
    return problems


def stale_writes(session: Session) -> list[str]:
    """Nobody writes about a run after a later attempt has claimed it."""
    problems = []
    newest: dict[object, int] = {}
    for event in session.scalars(select(RunEvent).order_by(RunEvent.at, RunEvent.id)):
        if event.fence is None:
            continue
        if event.kind == "claimed":
            if event.fence <= newest.get(event.run_id, 0):
                problems.append(f"run {event.run_id}: claimed with fence {event.fence} after {newest[event.run_id]}")
            newest[event.run_id] = event.fence
        elif event.fence < newest.get(event.run_id, 0):
            problems.append(
                f"run {event.run_id}: {event.kind} under {event.fence}, after {newest[event.run_id]} had it"
            )
    return problems


def ends(session: Session) -> list[str]:
    """Every run has succeeded, once, with one model and no attempt left open."""
    problems = []
    endings: Counter[object] = Counter()
    for event in session.scalars(select(RunEvent).where(RunEvent.to_state.in_(TERMINAL_STATES))):
        endings[event.run_id] += 1
    models = Counter(session.scalars(select(ModelVersion.run_id).where(ModelVersion.run_id.is_not(None))))
    for run in session.scalars(select(Run)):
        if run.state != "succeeded":
            problems.append(f"run {run.id} is {run.state}: {run.state_reason}")
        if endings[run.id] != 1 or models[run.id] != 1:
            problems.append(f"run {run.id} ended {endings[run.id]} times and left {models[run.id]} models")
    problems += [
        f"attempt {attempt.fence} of run {attempt.run_id} never ended"
        for attempt in session.scalars(select(RunAttempt).where(RunAttempt.ended_at.is_(None)))
    ]
    return problems


def results(session: Session, reference: Path, losses: dict[int, float]) -> list[str]:
    """Every model, and every loss on the way, is bit for bit that of the uninterrupted training."""
    problems = []
    wanted = file_sha256(reference / "final" / "model.safetensors")
    for model in session.scalars(select(ModelVersion).where(ModelVersion.run_id.is_not(None))):
        verify_manifest(Path(model.uri))
        if file_sha256(Path(model.uri) / "model.safetensors") != wanted:
            problems.append(f"run {model.run_id}: other weights than the uninterrupted training")
        rows = session.scalars(select(RunMetric).where(RunMetric.run_id == model.run_id))
        if {row.step: row.values["loss"] for row in rows} != losses:
            problems.append(f"run {model.run_id}: other losses than the uninterrupted training")
    return problems
