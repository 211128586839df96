"""Snapshot: freeze the project's answers as they are when the stage starts; later stages learn from exactly these.

What is small is frozen in the tick itself. What is large is a worker's job, which the stage asks for in the transaction
in which it begins, and then waits for: a tick never takes long, and two of them ask for one job.
"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from sqlalchemy.orm import Session

from app.models import Pipeline, PipelineStage, Project
from app.services.data import jobs
from app.services.training import snapshots
from app.services.training.stages import base
from app.services.training.stages.base import Failed, Outcome, Running, Succeeded


class Spec(base.StageSpec):
    """A snapshot has no options: it holds all that counts."""

    kind: Literal["snapshot"]


def start(session: Session, pipeline: Pipeline, _stage: PipelineStage) -> Outcome:
    """Freeze, or ask a worker to; the same answers as in an earlier snapshot give that one."""
    project = session.get_one(Project, pipeline.project_id)
    user = base.owner(session, pipeline)
    if jobs.is_long_snapshot(session, project):
        return Running(detail={"job_id": str(jobs.ask_snapshot(session, project, user).id)})
    return Succeeded({"snapshot_id": str(snapshots.create(session, project, user).id)})


def advance(session: Session, _pipeline: Pipeline, stage: PipelineStage) -> Outcome:
    """Look whether the worker is done."""
    job = jobs.get(session, UUID(stage.detail["job_id"]))
    if job.state == "failed":
        return Failed(job.reason or "The snapshot could not be made.")
    if job.state != "succeeded" or job.result is None:
        return Running(detail=stage.detail)
    return Succeeded({"snapshot_id": job.result["snapshot_id"]})
