"""`plackett demo --rounds 2`: a schedule runs whole weekly rounds unattended; simulated labelers answer what is open.

    once:  the base model is in use; demonstrations; its answers at two temperatures; rankings
    then every minute, if there are enough new rankings:
        snapshot → reward model → SFT → DPO → evaluation → blind evaluation by the labelers → gate, which promotes
        → fresh answers of several policies → order of the queue → open tasks; and the labelers rank them

Nobody presses a button between two rounds: the schedule starts them by its cron expression, which stands in for
Monday 02:00, and the labelers only take what the queue hands them, blind tasks among the others.
"""

from __future__ import annotations

from collections import Counter
from math import ceil
from pathlib import Path
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import db
from app.demo import loop, plan, weekly_plan, weekly_report
from app.demo.labelers import rank_all
from app.demo.loop import DemoError, Scene
from app.demo.progress import Step
from app.models import ModelVersion, Occurrence, Pipeline, Project, Run, Schedule, User
from app.services.training import pipelines, round_figures, round_pages, runs, schedules
from app.services.training.round_figures import Rounds
from app.services.training.runs import PolicyShare
from app.services.training.schedules import Values

IDLE_SECONDS = 1.0


def run(scene: Scene, model: Path, rounds: int, prompts: int) -> tuple[UUID, Rounds]:
    """Make a project with a first policy and a schedule, look on until so many rounds have ended, and return them."""
    schedule_id, project_id = _prepare(scene, model, prompts)
    for number in range(1, rounds + 1):
        with scene.story.step(f"round {number}", f"Round {number}, started by the schedule") as step:
            step.result = _follow(scene, step, project_id, number)
    with db.transaction() as session:
        owner = session.get_one(User, session.get_one(Project, project_id).created_by)
        schedules.set_paused(session, schedule_id, owner, paused=True)
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


def stage_seconds(project_id: UUID) -> dict[int, list[tuple[str, float]]]:
    """Return how long each stage of each round took, by the round's number."""
    with db.transaction() as session:
        return {
            pipeline.number: [
                (round_pages.title(stage.kind), (stage.finished_at - stage.started_at).total_seconds())
                for stage in pipelines.stages_of(session, pipeline.id)
                if stage.started_at is not None and stage.finished_at is not None
            ]
            for pipeline in pipelines.of_project(session, project_id)
        }


def _prepare(scene: Scene, model: Path, prompts: int) -> tuple[UUID, UUID]:
    """Bring a project to where a schedule makes sense: a policy in use, rankings of answers, and the schedule."""
    exams = len(loop.read_data(weekly_plan.EXAM_PROMPTS))
    share = prompts / len(loop.read_data(weekly_plan.PROMPTS))
    files = {weekly_plan.PROMPTS: prompts, weekly_plan.EXAM_PROMPTS: ceil(share * exams)}
    _, project_id = loop.make_project(scene, files, weekly_plan.OVERLAP)
    base_id = loop.register_base(scene, project_id, model)
    with db.transaction() as session:
        project = session.get_one(Project, project_id)
        project.queue_order = weekly_plan.QUEUE_ORDER
        project.round_weight_percent = weekly_plan.ROUND_WEIGHT_PERCENT
    with scene.story.step("demonstrate", "Write demonstrations (simulated)") as step:
        step.result = f"{loop.demonstrate(scene, step, project_id)} demonstrations"
    loop.promote(scene, project_id, loop.BASE)
    with scene.story.step("sample", "First answers of the base model") as step:
        loop.follow(scene, step, _sample(scene, project_id, base_id))
    loop.open_tasks(scene, project_id, "ranking")
    with scene.story.step("label", "The first rankings (simulated)") as step:
        rankings = _rank(scene, project_id, step)
        step.result = f"{rankings} rankings"
    return _schedule(project_id), project_id


def _sample(scene: Scene, project_id: UUID, base_id: UUID) -> UUID:
    """Queue the first sampling run, in the shares of the plan, and return its id."""
    with db.transaction() as session:
        project = session.get_one(Project, project_id)
        base = session.get_one(ModelVersion, base_id)
        return runs.create_sampling_run(
            session,
            project,
            base,
            session.get_one(User, project.created_by),
            policies=[PolicyShare(base, share, temperature) for share, temperature in weekly_plan.FIRST_SHARES],
            options={"samples_per_prompt": plan.K, "sampling": weekly_plan.FRESH},
            seed=scene.seed,
            max_length=plan.MAX_LENGTH,
        ).id


def _schedule(project_id: UUID) -> UUID:
    """Make the schedule: a round once half of the fresh answers to the training prompts are ranked."""
    with db.transaction() as session:
        project = session.get_one(Project, project_id)
        owner = session.get_one(User, project.created_by)
        fresh = len(session.scalars(runs.choose_prompts(project, "train")).all())
        values = Values(
            weekly_plan.NAME,
            weekly_plan.CRON,
            weekly_plan.TIME_ZONE,
            weekly_plan.RECIPE,
            min_new_rankings=max(1, fresh * weekly_plan.OVERLAP // 2),
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
            if pipeline is not None:
                done, words = _progress(session, pipeline.id)
                step.update(round(done), round(weekly_plan.ROUND_SECONDS), words)
        if pipeline is not None and pipeline.state != "running":
            break
        if scene.wait(IDLE_SECONDS):
            raise DemoError("A process of the stack has given up, so the demo cannot go on.")
    if pipeline.state != "succeeded":
        raise DemoError(f"Round {number} has {pipeline.state}: {pipeline.reason or 'it gave no reason'}")
    with db.transaction() as session:
        row = next(row for row in round_figures.of_project(session, project_id).rounds if row.number == number)
    return weekly_report.outcome(row)


def _progress(session: Session, pipeline_id: UUID) -> tuple[float, str]:
    """Return how many of a round's seconds on idle cores are done, and which stage is at work."""
    done, words = 0.0, ""
    for stage in pipelines.stages_of(session, pipeline_id):
        weight = weekly_plan.STAGE_SECONDS[stage.kind]
        if stage.state == "succeeded":
            done += weight
        elif stage.state == "running":
            words = round_pages.title(stage.kind)
            run = session.get(Run, stage.run_id) if stage.run_id else None
            if run is not None and run.progress_total:
                done += weight * (run.progress_step or 0) / run.progress_total
    return done, words


def _rank(scene: Scene, project_id: UUID, step: Step | None = None) -> int:
    """Let the labelers answer all that is open to them, and return how many rankings that were."""
    done = 0
    for done in rank_all(scene.workers, project_id, scene.seed):
        if step is not None:
            step.update(done, None)
    return done
