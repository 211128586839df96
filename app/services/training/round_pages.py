"""What the page of a round shows: each stage with what it made, where that is, and how long it will still take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import ModelVersion, Pipeline, PipelineStage, Project, Run, RunMetric, Schedule, Snapshot
from app.services.training import charts, pipelines
from app.services.training.run_inputs import METHOD_NAMES

TITLES = METHOD_NAMES | {
    "snapshot": "Snapshot",
    "blind": "Blind evaluation",
    "gate": "Gate",
    "tasks": "Tasks",
    "order": "Order of the queue",
}


@dataclass(frozen=True)
class Link:
    """Where something is that a stage made or works on."""

    label: str
    path: str


@dataclass(frozen=True)
class StageView:
    """A stage as the chain shows it. `step` of `total` is its run's progress, `left` how long that still takes."""

    stage: PipelineStage
    title: str
    links: tuple[Link, ...]
    notes: tuple[str, ...]
    took: str
    step: int = 0
    total: int = 0
    left: str = ""


@dataclass(frozen=True)
class RoundView:
    """A round with its project, its schedule if it has one, and its chain."""

    round: Pipeline
    project: Project
    schedule: Schedule | None
    stages: Sequence[StageView]
    done: int


def view(session: Session, pipeline: Pipeline) -> RoundView:
    """Return the page of a round."""
    stages = pipelines.stages_of(session, pipeline.id)
    return RoundView(
        pipeline,
        session.get_one(Project, pipeline.project_id),
        session.get(Schedule, pipeline.schedule_id) if pipeline.schedule_id else None,
        [_stage(session, pipeline, stage) for stage in stages],
        sum(stage.state == "succeeded" for stage in stages),
    )


def title(kind: str) -> str:
    """Return the name of a kind of stage as people say it."""
    return TITLES.get(kind, kind.replace("_", " ").capitalize())


def _stage(session: Session, pipeline: Pipeline, stage: PipelineStage) -> StageView:
    links = tuple(_links(session, pipeline, stage))
    base = StageView(stage, title(stage.kind), links, tuple(_notes(stage)), _took(stage))
    if stage.state != "running" or stage.run_id is None:
        return base
    run = session.get_one(Run, stage.run_id, populate_existing=True)
    metrics = session.scalars(select(RunMetric).where(RunMetric.run_id == run.id).order_by(RunMetric.step)).all()
    left = charts.seconds_left(run, metrics)
    return StageView(
        stage,
        base.title,
        links,
        ("The run waits for a worker.",) if run.state == "queued" else (),
        "",
        run.progress_step or 0,
        run.progress_total or 0,
        charts.spoken(left) if left is not None else "",
    )


def _took(stage: PipelineStage) -> str:
    if stage.state not in ("succeeded", "failed") or stage.started_at is None or stage.finished_at is None:
        return ""
    return charts.spoken((stage.finished_at - stage.started_at).total_seconds())


def _links(session: Session, pipeline: Pipeline, stage: PipelineStage) -> list[Link]:
    found = []
    if stage.run_id is not None:
        found.append(Link("Run", f"/runs/{stage.run_id}"))
    if "snapshot_id" in stage.detail:
        snapshot = session.get(Snapshot, UUID(stage.detail["snapshot_id"]))
        if snapshot is not None:
            found.append(Link(f"Snapshot {snapshot.number}", f"/snapshots/{snapshot.id}"))
    if "model_id" in stage.detail:
        model = session.get(ModelVersion, UUID(stage.detail["model_id"]))
        if model is not None:
            found.append(Link(model.name, f"/models/{model.id}"))
    if "blind_evaluation_id" in stage.detail:
        found.append(Link("Blind evaluation", f"/blind/{stage.detail['blind_evaluation_id']}"))
    if "opened" in stage.detail:
        found.append(Link("All tasks", f"/projects/{pipeline.project_id}/tasks"))
    return found


def _notes(stage: PipelineStage) -> list[str]:
    """Return what a stage that is done has to say, in sentences."""
    detail = stage.detail
    found = [stage.reason] if stage.reason else []
    if stage.kind == "gate" and stage.state == "succeeded":
        if detail.get("promoted"):
            found.append("Passed and promoted: it is the policy in use now.")
        elif detail.get("passed"):
            found.append("Passed. It stays a candidate until an admin promotes it.")
        else:
            found.append("Not passed: the policy before it stays in use.")
        for name, sentences in dict(detail.get("unmet", {})).items():
            found += [f"{name}: {sentence}" for sentence in sentences]
    if stage.kind == "blind" and detail.get("judged"):
        found.append(
            f"{detail['judged']} prompts judged: the candidate wins {detail['win_rate']:.0%}, "
            f"between {detail['low']:.0%} and {detail['high']:.0%} with 95 percent certainty."
        )
    if "ordered" in detail:
        placed = f"{detail['ordered']} tasks share out their places anew."
        found.append(detail.get("note") or (placed if detail["ordered"] else "Tasks go out in the order they had."))
    if "opened" in detail:
        count = detail["opened"]
        found.append("One task was opened." if count == 1 else f"{count} tasks were opened.")
    return found
