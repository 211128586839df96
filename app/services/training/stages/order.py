"""Order: let a reward model score the tasks that wait, and put them in the order that the project is set to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.errors import InvalidInputError
from app.models import Pipeline, PipelineStage, Project, TaskScore
from app.services.labeling import queue_order
from app.services.training import run_inputs, runs
from app.services.training.stages import base, training
from app.services.training.stages.base import Outcome, Running, Succeeded


class Spec(base.StageSpec):
    """By which reward model. What is asked for first, and how much stays random, the project's settings say."""

    kind: Literal["order"]
    reward_model: base.ModelRef
    settings: base.RunSettings = base.NO_SETTINGS

    def stages_named(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the reward model's stage, if an earlier one makes it."""
        yield from base.in_ref(self.reward_model, ("reward",))

    def check(self) -> None:
        """Refuse more devices than scoring can use."""
        run_inputs.require_splittable("score", self.settings.gpus or 1)


def start(session: Session, pipeline: Pipeline, stage: PipelineStage) -> Outcome:
    """Queue the run; where no task waits, or tasks go out as they came, there is nothing to do."""
    project = session.get_one(Project, pipeline.project_id)
    if project.queue_order == "arrival" or not queue_order.candidates(session, project, limit=1):
        return Succeeded({"ordered": 0})
    spec = base.spec_of(Spec, pipeline, stage)
    reward_model = base.model_of(session, pipeline, spec.reward_model)
    try:
        run = runs.create_scoring_run(
            session,
            project,
            base.owner(session, pipeline),
            reward_model=reward_model,
            dedupe_key=base.key(stage),
            **{"seed": pipeline.number} | spec.settings.keywords(),
        )
    except InvalidInputError as error:
        # The round has done its work; that the queue stays as it is must be said, and is no reason to fail it.
        return Succeeded({"ordered": 0, "note": error.message})
    return Running(run.id)


def advance(session: Session, _pipeline: Pipeline, stage: PipelineStage) -> Outcome:
    """Wait for the run; ending it has put the tasks in order."""
    run = training.run_of(session, stage)
    waiting = training.not_done(run)
    if waiting is not None:
        return waiting
    placed = session.scalar(select(func.count()).select_from(TaskScore).where(TaskScore.run_id == run.id))
    return Succeeded({"ordered": placed or 0})
