"""Tasks: open what a sampling stage has drafted, so that labelers rank the new answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field
from sqlalchemy.orm import Session

from app.models import Pipeline, PipelineStage, Project
from app.services.labeling import tasks
from app.services.training.stages import base
from app.services.training.stages.base import Outcome, Succeeded
from app.services.training.stages.training import run_of


class Spec(base.StageSpec):
    """The sampling stage whose tasks are opened; those with a larger `priority` are handed out first."""

    kind: Literal["tasks"]
    sample: base.Name
    priority: int = Field(default=0, ge=-1000, le=1000)

    def stages_named(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the sampling stage."""
        yield self.sample, ("sample",)


def start(session: Session, pipeline: Pipeline, stage: PipelineStage) -> Outcome:
    """Open the tasks. Answers that were all alike have none, so there may be fewer than prompts."""
    spec = base.spec_of(Spec, pipeline, stage)
    run = run_of(session, base.earlier(session, pipeline, spec.sample))
    project = session.get_one(Project, pipeline.project_id)
    owner = base.owner(session, pipeline)
    opened = tasks.open_sampled(session, project, owner, run.id, spec.priority, pipeline.number)
    return Succeeded({"opened": opened})


def advance(session: Session, pipeline: Pipeline, stage: PipelineStage) -> Outcome:
    """Never needed: tasks are opened at once."""
    return start(session, pipeline, stage)
