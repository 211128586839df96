"""A weekly schedule in its third month, for the pages that show it: rounds that ended well and badly, one at work."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.orm import Session

from app import db
from app.models import Occurrence, Pipeline, PipelineStage, Schedule
from app.services.training import occurrences, pipelines, recipes, schedules, weekly
from app.services.training.schedules import Values
from app.services.training.weekly import Choices

from .world import Studio

DONE: dict[str, dict[str, Any]] = {
    "gate": {"passed": False, "promoted": False, "unmet": {"dpo-1": ["The win rate is 0.48, below 0.5."]}},
    "tasks": {"opened": 46},
}


@dataclass(frozen=True)
class Rounds:
    """The weekly schedule, a round that failed, and the one that is running."""

    schedule: UUID
    failed: UUID
    running: UUID


def make_rounds(studio: Studio) -> Rounds:
    """Make the studio's schedules with eight weeks behind them."""
    with db.transaction() as session:
        made = _schedule(session, studio, "Weekly DPO", "0 2 * * 1", Choices(sft=True))
        _schedule(session, studio, "Monthly PPO", "30 4 1 * *", Choices(methods="ppo"))
        now = occurrences.moment(session)
        ended = []
        for week in range(8, 0, -1):
            due_at = made.next_due_at - timedelta(weeks=week)
            if week == 6:
                _skipped(session, made, due_at, "Too few new rankings: 31 since round 2, and 50 are needed.")
            elif week == 4:
                _skipped(session, made, due_at, "Missed while the scheduler was down.")
            elif week > 1:
                ended.append(_round(session, studio, made, due_at, done=4 if week == 3 else 9))
        running = _round(session, studio, made, min(now, made.next_due_at - timedelta(weeks=1)), done=3, at_work=True)
    return Rounds(made.id, ended[-2], running)


def _schedule(session: Session, studio: Studio, name: str, cron: str, chosen: Choices) -> Schedule:
    values = Values(name, cron, "Europe/Berlin", weekly.recipe(chosen), chosen.model_dump(mode="json"), 50)
    return schedules.create(session, studio.project, studio.admin, values)


def _skipped(session: Session, schedule: Schedule, due_at: datetime, reason: str) -> None:
    session.add(Occurrence(schedule_id=schedule.id, due_at=due_at, state="skipped", reason=reason))


def _round(
    session: Session, studio: Studio, schedule: Schedule, due_at: datetime, done: int, *, at_work: bool = False
) -> UUID:
    """A round of which so many stages succeeded; then it failed, unless all did or it is at work."""
    made = pipelines.create(
        session,
        studio.project,
        studio.admin,
        recipes.read(schedule.recipe),
        name=schedule.name,
        schedule_id=schedule.id,
    )
    session.add(Occurrence(schedule_id=schedule.id, due_at=due_at, state="started", pipeline_id=made.id))
    stages = pipelines.stages_of(session, made.id)
    for stage in stages:
        values: dict[str, Any] = {"state": "waiting"}
        if stage.position < done:
            values = _succeeded(studio, stage, due_at)
        elif at_work and stage.position == done:
            values = {"state": "running", "started_at": due_at, "run_id": studio.running.id}
        elif stage.position == done:
            values = {
                "state": "failed",
                "reason": "The loss is not a number.",
                "started_at": due_at,
                "finished_at": due_at + timedelta(minutes=9),
            }
        elif not at_work:
            values = {
                "state": "skipped",
                "reason": f"The stage “{stages[done].name}” before it failed.",
                "finished_at": due_at,
            }
        session.execute(update(PipelineStage).where(PipelineStage.id == stage.id).values(**values))
    ended: dict[str, Any] = {"created_at": due_at}
    if not at_work:
        ended |= {"state": "succeeded", "finished_at": due_at + timedelta(hours=5)}
        if done < len(stages):
            ended |= {"state": "failed", "reason": f"The stage “{stages[done].name}” failed: The loss is not a number."}
    session.execute(update(Pipeline).where(Pipeline.id == made.id).values(**ended))
    return made.id


def _succeeded(studio: Studio, stage: PipelineStage, due_at: datetime) -> dict[str, Any]:
    detail = dict(DONE.get(stage.kind, {}))
    if stage.kind == "snapshot":
        detail["snapshot_id"] = str(studio.snapshot.id)
    model = {"sft": "sft-1", "reward": "reward-1", "dpo": "dpo-1", "gate": "smollm2-135m"}.get(stage.kind)
    if model is not None:
        detail["model_id"] = str(studio.models[model].id)
    run_id = studio.models[model].run_id if model is not None else None
    begun = due_at + timedelta(minutes=31 * stage.position)
    return {
        "state": "succeeded", "detail": detail, "run_id": run_id, "started_at": begun,
        "finished_at": begun + timedelta(minutes=29, seconds=7 * stage.position),
    }  # fmt: skip
