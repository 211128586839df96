"""What the stages that train a model, and those that wait for any run, have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from sqlalchemy.orm import Session

from app.errors import InvalidInputError
from app.models import Pipeline, PipelineStage, Project, Run
from app.services.training import run_inputs, runs
from app.services.training.stages import base
from app.services.training.stages.base import Failed, Outcome, Running, Succeeded
from trainer.config import ConfigError, parse_run

TRAINED_POLICIES = ("sft", "dpo", "kto", "ppo", "rloo")
"""Kinds of stages that leave a new policy behind."""

POLICY_STAGES = (*TRAINED_POLICIES, "gate")


class TrainingSpec(base.StageSpec):
    """A stage that trains from `model` on the snapshot of an earlier stage. `options` are those of run.json."""

    METHOD: ClassVar[str]

    snapshot: base.Name
    model: base.ModelRef = base.NEWEST_SFT
    options: base.Options
    settings: base.RunSettings = base.NO_SETTINGS

    def stages_named(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the snapshot's stage, and the model's if an earlier stage makes it."""
        yield self.snapshot, ("snapshot",)
        yield from base.in_ref(self.model, POLICY_STAGES)

    def check(self) -> None:
        """Let the trainer's own reader judge the options, as it will when the run is made."""
        check_options(self.METHOD, self.options, self.settings)


class ScoredSpec(TrainingSpec):
    """As `TrainingSpec`, with the reward model that scores: that of an earlier stage, or one by its name."""

    reward_model: base.ModelRef

    def stages_named(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the reward model's stage, too."""
        yield from super().stages_named()
        yield from base.in_ref(self.reward_model, ("reward",))

    def check(self) -> None:
        """Check the options as they will be once the reward model's folder is known."""
        check_options(self.METHOD, self.options, self.settings, reward_model="reward_model")


def check_options(method: str, options: dict[str, Any], settings: base.RunSettings, **placed: Any) -> None:
    """Raise `InvalidInputError` with the trainer's sentence when it would refuse these options.

    `placed` stands for the options that the stage fills in when it starts, such as a model's folder.
    """
    for name in placed:
        if name in options:
            raise InvalidInputError(f"options.{name} is filled in by the stage; leave it out.")
    run_inputs.require_splittable(method, settings.gpus or 1)
    config = {
        "run_id": "0", "method": method, "model": "model", "options": {**options, **placed}, **settings.config()
    }  # fmt: skip
    try:
        checked = parse_run(config)
    except ConfigError as error:
        raise InvalidInputError(str(error)) from None
    run_inputs.require_shareable(checked, settings.gpus or 1)


def start(session: Session, pipeline: Pipeline, stage: PipelineStage, spec: TrainingSpec, **more: Any) -> Outcome:
    """Queue the training run of a stage."""
    run = runs.create_training_run(
        session,
        session.get_one(Project, pipeline.project_id),
        spec.METHOD,
        base.owner(session, pipeline),
        model=base.model_of(session, pipeline, spec.model),
        snapshot=base.snapshot_of(session, pipeline, spec.snapshot),
        options=spec.options,
        dedupe_key=base.key(stage),
        **more,
        **spec.settings.keywords(),
    )
    return Running(run.id)


def start_scored(session: Session, pipeline: Pipeline, stage: PipelineStage, spec: ScoredSpec) -> Outcome:
    """Queue the training run of a stage whose answers a reward model scores."""
    return start(session, pipeline, stage, spec, reward_model=base.model_of(session, pipeline, spec.reward_model))


def run_of(session: Session, stage: PipelineStage) -> Run:
    """Return the run of a stage that has one, as it is stored now."""
    if stage.run_id is None:
        raise InvalidInputError("The stage has lost its run; retry the pipeline to start it again.")
    return session.get_one(Run, stage.run_id, populate_existing=True)


def not_done(run: Run) -> Running | Failed | None:
    """Return what a stage answers while its run is going on, or after it has ended badly; None once it succeeded."""
    if run.state in ("queued", "running"):
        return Running(run.id)
    if run.state == "succeeded":
        return None
    if run.state == "cancelled":
        return Failed("Its run was cancelled.")
    return Failed(run.state_reason or "Its run failed.")


def advance(session: Session, _pipeline: Pipeline, stage: PipelineStage) -> Outcome:
    """Wait for a training run; what it leaves behind is its model."""
    run = run_of(session, stage)
    waiting = not_done(run)
    if waiting is not None:
        return waiting
    return Succeeded({"model_id": str(runs.result_id(session, run))})
