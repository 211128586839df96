"""Sampling: fresh answers of one policy, or of several by their shares, which become draft tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from app.models import Pipeline, PipelineStage, Project
from app.services.training import runs
from app.services.training.runs import PolicyShare
from app.services.training.stages import base, training
from app.services.training.stages.base import Outcome, Running, Succeeded


class Share(BaseModel):
    """One of several policies: its share of the answers, and its temperature where it is not that of the options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: base.ModelRef
    share: float = Field(default=1.0, gt=0, le=1000)
    temperature: float | None = Field(default=None, ge=0, le=5)


class Spec(base.StageSpec):
    """Whose answers, to which prompts. `options` are those of run.json; left out, K answers as the project has it.

    With `policies`, such as the one in use, the candidate and the one used earlier, the answers are theirs by share.
    """

    kind: Literal["sample"]
    model: base.ModelRef = base.IN_USE
    policies: list[Share] = Field(default=[], max_length=16)
    prompts: Literal["all", "unsampled", "train", "held_out"] = "all"
    options: base.Options
    settings: base.RunSettings = base.NO_SETTINGS

    def stages_named(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the stages of the models that earlier ones make."""
        for ref in (self.model, *(share.model for share in self.policies)):
            yield from base.in_ref(ref, training.POLICY_STAGES)

    def check(self) -> None:
        """Let the trainer's reader judge the options."""
        training.check_options("sample", self.options, self.settings, policies=[])


def start(session: Session, pipeline: Pipeline, stage: PipelineStage) -> Outcome:
    """Queue the run. Every attempt at every round draws other answers, unless the recipe fixes the seed."""
    spec = base.spec_of(Spec, pipeline, stage)
    policies = shares(session, pipeline, spec)
    run = runs.create_sampling_run(
        session,
        session.get_one(Project, pipeline.project_id),
        policies[0].model if policies else base.model_of(session, pipeline, spec.model),
        base.owner(session, pipeline),
        policies=policies,
        prompts=spec.prompts,
        options=spec.options,
        dedupe_key=base.key(stage),
        **{"seed": pipeline.number} | spec.settings.keywords(),
    )
    return Running(run.id)


def shares(session: Session, pipeline: Pipeline, spec: Spec) -> list[PolicyShare]:
    """Return the policies as they are now; where two words mean one policy at one temperature, their shares add up."""
    found: dict[tuple[UUID, float | None], PolicyShare] = {}
    for item in spec.policies:
        model = base.model_of(session, pipeline, item.model)
        key = (model.id, item.temperature)
        before = found[key].share if key in found else 0.0
        found[key] = PolicyShare(model, before + item.share, item.temperature)
    return list(found.values())


def advance(session: Session, _pipeline: Pipeline, stage: PipelineStage) -> Outcome:
    """Wait for the run; ending it has stored its answers and made draft tasks."""
    run = training.run_of(session, stage)
    waiting = training.not_done(run)
    return waiting if waiting is not None else Succeeded({"model_id": str(run.parent_model_id)})
