"""Sampling: fresh answers of a policy to the project's prompts, which become draft tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from sqlalchemy.orm import Session

from app.models import Pipeline, PipelineStage, Project
from app.services.training import runs
from app.services.training.stages import base, training
from app.services.training.stages.base import Outcome, Running, Succeeded


class Spec(base.StageSpec):
    """Whose answers, to which prompts. `options` are those of run.json; left out, K answers as the project has it."""

    kind: Literal["sample"]
    model: base.ModelRef = base.IN_USE
    prompts: Literal["all", "unsampled", "held_out"] = "all"
    options: base.Options
    settings: base.RunSettings = base.NO_SETTINGS

    def stages_named(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the model's stage, if an earlier one makes it."""
        yield from base.in_ref(self.model, training.POLICY_STAGES)

    def check(self) -> None:
        """Let the trainer's reader judge the options."""
        training.check_options("sample", self.options, self.settings)


def start(session: Session, pipeline: Pipeline, stage: PipelineStage) -> Outcome:
    """Queue the run. Every attempt at every round draws other answers, unless the recipe fixes the seed."""
    spec = base.spec_of(Spec, pipeline, stage)
    run = runs.create_sampling_run(
        session,
        session.get_one(Project, pipeline.project_id),
        base.model_of(session, pipeline, spec.model),
        base.owner(session, pipeline),
        prompts=spec.prompts,
        options=spec.options,
        dedupe_key=base.key(stage),
        **{"seed": pipeline.number} | spec.settings.keywords(),
    )
    return Running(run.id)


def advance(session: Session, _pipeline: Pipeline, stage: PipelineStage) -> Outcome:
    """Wait for the run; ending it has stored its answers and made draft tasks."""
    run = training.run_of(session, stage)
    waiting = training.not_done(run)
    return waiting if waiting is not None else Succeeded({"model_id": str(run.parent_model_id)})
