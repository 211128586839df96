"""Snapshot: freeze the project's answers as they are when the stage starts; later stages learn from exactly these."""

from __future__ import annotations

from typing import Literal

from sqlalchemy.orm import Session

from app.models import Pipeline, PipelineStage, Project
from app.services.training import snapshots
from app.services.training.stages import base
from app.services.training.stages.base import Outcome, Succeeded


class Spec(base.StageSpec):
    """A snapshot has no options: it holds all that counts."""

    kind: Literal["snapshot"]


def start(session: Session, pipeline: Pipeline, _stage: PipelineStage) -> Outcome:
    """Freeze; the same answers as in an earlier snapshot give that one."""
    project = session.get_one(Project, pipeline.project_id)
    made = snapshots.create(session, project, base.owner(session, pipeline))
    return Succeeded({"snapshot_id": str(made.id)})


def advance(session: Session, pipeline: Pipeline, stage: PipelineStage) -> Outcome:
    """Never needed: a snapshot is whole or absent."""
    return start(session, pipeline, stage)
