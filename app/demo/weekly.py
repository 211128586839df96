"""`plackett demo --rounds 2`: a schedule runs whole weekly rounds unattended; simulated labelers answer what is open.

    every minute, if there are enough new rankings:
        snapshot → reward model → DPO → evaluation → blind evaluation by the labelers → gate, which promotes by itself
        → fresh answers → order of the queue → open tasks; and the labelers rank them

Nobody presses a button between two rounds: the schedule starts them by its cron expression, which stands in for
Monday 02:00, and the labelers only take what the queue hands them, blind tasks among the others.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from uuid import UUID

from sqlalchemy import select

from app import db
from app.demo import loop, plan
from app.demo.labelers import rank_all
from app.demo.loop import DemoError, Scene
from app.demo.progress import Step
from app.models import Occurrence, Pipeline, PipelineStage, Project, Schedule, User
from app.services.training import round_figures, schedules
from app.services.training.round_figures import Rounds
from app.services.training.schedules import Values

IDLE_SECONDS = 1.0
NAME = "Every minute, in place of every Monday"


def run(scene: Scene, model: Path, rounds: int, prompts: int) -> tuple[UUID, Rounds]:
    """Make a project with first rankings and a schedule, look on until so many rounds have ended, and return them."""
    _, project_id = loop.make_project(scene, plan.WEEKLY_HELD_OUT_PERCENT, prompts)
    base_id = loop.register_base(scene, project_id, model)
    with db.transaction() as session:
        session.get_one(Project, project_id).queue_order = "uncertainty"
    with scene.story.step("sample", "Sample answers of the base model") as step:
        loop.sample(scene, step, project_id, base_id, "all", scene.seed)
    loop.open_tasks(scene, project_id, "ranking")
    with scene.story.step("label", "The first rankings (simulated)") as step:
        first = _rank(scene, project_id)
        step.result = f"{first} rankings"
    schedule_id = _schedule(project_id, max(1, first // 2))
    for number in range(1, rounds + 1):
        with scene.story.step(f"round {number}", f"Round {number}, started by the schedule") as step:
            step.result = _follow(scene, step, project_id, number)
    with db.transaction() as session:
        owner = session.get_one(User, session.get_one(Project, project_id).created_by)
        schedules.set_paused(session, schedule_id, owner, paused=True)
    _rank(scene, project_id)
    with db.transaction() as session:
        return project_id, round_figures.of_project(session, project_id)


def occurrences(project_id: UUID) -> dict[str, int]:
    """Return what became of the schedule's due times, and how often."""
    with db.transaction() as session:
        rows = session.execute(
            select(Occurrence.state, Occurrence.reason)
            .join(Schedule, Schedule.id == Occurrence.schedule_id)
            .where(Schedule.project_id == project_id)
            .order_by(Occurrence.due_at)
        )
        return dict(Counter(reason or state for state, reason in rows))


def _schedule(project_id: UUID, min_new_rankings: int) -> UUID:
    with db.transaction() as session:
        project = session.get_one(Project, project_id)
        owner = session.get_one(User, project.created_by)
        values = Values(
            NAME,
            plan.WEEKLY_CRON,
            "Europe/Berlin",
            plan.WEEKLY_RECIPE,
            min_new_rankings=min_new_rankings,
            overlap="skip",
        )
        return schedules.create(session, project, owner, values).id


def _follow(scene: Scene, step: Step, project_id: UUID, number: int) -> str:
    """Let the labelers answer what is open until the round has ended; return how it ended."""
    while True:
        _rank(scene, project_id)
        with db.transaction() as session:
            pipeline = session.scalar(
                select(Pipeline).where(Pipeline.project_id == project_id, Pipeline.number == number)
            )
            stages = session.execute(
                select(PipelineStage.name, PipelineStage.state)
                .join(Pipeline, Pipeline.id == PipelineStage.pipeline_id)
                .where(Pipeline.project_id == project_id, Pipeline.number == number)
            ).all()
        step.update(sum(state == "succeeded" for _, state in stages), len(stages) or None)
        if pipeline is not None and pipeline.state != "running":
            break
        if scene.wait(IDLE_SECONDS):
            raise DemoError("A process of the stack has given up, so the demo cannot go on.")
    if pipeline.state != "succeeded":
        raise DemoError(f"Round {number} has {pipeline.state}: {pipeline.reason or 'it gave no reason'}")
    with db.transaction() as session:
        row = next(row for row in round_figures.of_project(session, project_id).rounds if row.number == number)
    verdict = "promoted" if row.promoted else "not promoted"
    return f"{row.candidate} {verdict}, after {row.new_rankings} new rankings"


def _rank(scene: Scene, project_id: UUID) -> int:
    """Let the labelers answer all that is open to them, and return how many rankings that were."""
    return sum(1 for _ in rank_all(scene.workers, project_id, scene.seed))
