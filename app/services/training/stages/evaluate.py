"""Evaluation: judge new policies against a baseline on the snapshot's held-out prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field
from sqlalchemy.orm import Session

from app.errors import InvalidInputError
from app.models import Pipeline, PipelineStage, Project
from app.services.training import runs
from app.services.training.stages import base, training
from app.services.training.stages.base import Outcome, Running, Succeeded


class Spec(base.StageSpec):
    """Which policies are judged, against which baseline, and by which reward models. `options` are run.json's."""

    kind: Literal["evaluate"]
    snapshot: base.Name
    policies: list[base.ModelRef] = Field(min_length=1, max_length=16)
    baseline: base.ModelRef = base.IN_USE
    reward_model: base.ModelRef | None = None
    gold_model: base.ModelRef | None = None
    options: base.Options
    settings: base.RunSettings = base.NO_SETTINGS

    def stages_named(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the stages of the snapshot and of every model."""
        yield self.snapshot, ("snapshot",)
        for ref in (*self.policies, self.baseline):
            yield from base.in_ref(ref, training.POLICY_STAGES)
        yield from base.in_ref(self.reward_model, ("reward",))
        yield from base.in_ref(self.gold_model, ("reward",))

    def check(self) -> None:
        """Check the options as they will be once the models are known."""
        placed = {
            "policies": [], "baseline": "baseline", "reward_model": "reward_model", "gold_model": "gold_model"
        }  # fmt: skip
        training.check_options("evaluate", self.options, self.settings, **placed)


def start(session: Session, pipeline: Pipeline, stage: PipelineStage) -> Outcome:
    """Queue the run. The baseline is the one of this moment: a promotion later does not change what was compared."""
    spec = base.spec_of(Spec, pipeline, stage)
    baseline = base.model_of(session, pipeline, spec.baseline)
    policies = [base.model_of(session, pipeline, ref) for ref in spec.policies]
    if baseline.id in {policy.id for policy in policies}:
        raise InvalidInputError(f"{baseline.name} is both the baseline and a policy to judge; compare two models.")
    run = runs.create_evaluation_run(
        session,
        session.get_one(Project, pipeline.project_id),
        base.owner(session, pipeline),
        baseline=baseline,
        policies=policies,
        snapshot=base.snapshot_of(session, pipeline, spec.snapshot),
        reward_model=base.model_of(session, pipeline, spec.reward_model) if spec.reward_model else None,
        gold_model=base.model_of(session, pipeline, spec.gold_model) if spec.gold_model else None,
        options=spec.options,
        dedupe_key=base.key(stage),
        **spec.settings.keywords(),
    )
    return Running(run.id, {"baseline_id": str(baseline.id)})


def advance(session: Session, _pipeline: Pipeline, stage: PipelineStage) -> Outcome:
    """Wait for the run."""
    waiting = training.not_done(training.run_of(session, stage))
    return waiting if waiting is not None else Succeeded(stage.detail)
