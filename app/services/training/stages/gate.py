"""The gate: hold candidates against thresholds, and promote one where the recipe or the project says so.

The thresholds are the project's, and the recipe's where it sets one. That none passes is no failure of the pipeline:
the gate then leaves the baseline as its model, so that later stages go on with the best there is. A threshold whose
figure was not measured is not met.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal
from uuid import UUID

from pydantic import Field
from sqlalchemy.orm import Session

from app.errors import InvalidInputError
from app.models import BlindEvaluation, GateVerdict, ModelVersion, Pipeline, PipelineStage
from app.services.evaluation import blind, gate
from app.services.evaluation.gate import Limits
from app.services.training import registry
from app.services.training.stages import base, training
from app.services.training.stages.base import Outcome, Succeeded


class Spec(base.StageSpec):
    """The evaluations to read, the candidates, the thresholds, and who promotes a candidate that passes.

    `min_win_rate` and `min_blind_win_rate` are held against the lower end of the interval. `promote` is `as_project`
    unless the recipe decides it.
    """

    kind: Literal["gate"]
    evaluation: base.Name
    blind: base.Name | None = None
    candidates: list[base.ModelRef] = Field(min_length=1, max_length=16)
    min_reward_accuracy: float | None = Field(default=None, ge=0, le=1)
    min_win_rate: float | None = Field(default=None, ge=0, le=1)
    min_blind_win_rate: float | None = Field(default=None, ge=0, le=1)
    max_kl: float | None = Field(default=None, ge=0)
    max_perplexity_rise: float | None = Field(default=None, ge=0)
    max_choice_drop: float | None = Field(default=None, ge=0, le=1)
    promote: Literal["as_project", "by_hand", "automatically"] = "as_project"

    def stages_named(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the evaluations' stages and the candidates'."""
        yield self.evaluation, ("evaluate",)
        if self.blind is not None:
            yield self.blind, ("blind",)
        for ref in self.candidates:
            yield from base.in_ref(ref, training.TRAINED_POLICIES)

    def limits(self) -> Limits:
        """Return the thresholds that the recipe sets."""
        return Limits(
            self.min_reward_accuracy,
            self.min_win_rate,
            self.min_blind_win_rate,
            self.max_kl,
            self.max_perplexity_rise,
            self.max_choice_drop,
        )


def start(session: Session, pipeline: Pipeline, stage: PipelineStage) -> Outcome:
    """Decide, from figures that are all there: of the candidates that pass, the one that wins most often."""
    spec = base.spec_of(Spec, pipeline, stage)
    candidates = [base.model_of(session, pipeline, ref) for ref in spec.candidates]
    judged = base.earlier(session, pipeline, spec.evaluation)
    run = training.run_of(session, judged)
    figures: dict[str, Any] = (run.report or {}).get("summary", {}).get("policies", {})
    by_people = _blind_of(session, pipeline, spec)
    limits, promotes = gate.of_project(session, pipeline.project_id)
    owner = base.owner(session, pipeline)
    verdicts: dict[UUID, GateVerdict] = {}
    for model in candidates:
        if model.name not in figures:
            raise InvalidInputError(f"The evaluation did not judge {model.name}, so the gate cannot tell.")
        own = by_people if by_people is not None and by_people.candidate_id == model.id else None
        verdicts[model.id] = gate.judge(session, model, owner, spec.limits().over(limits), run=run, blind=own)
    passed = [model for model in candidates if verdicts[model.id].passed]
    best = max(passed, key=lambda model: figures[model.name].get("win_rate") or 0.0, default=None)
    is_promoted = best is not None and (promotes if spec.promote == "as_project" else spec.promote == "automatically")
    if best is not None and is_promoted:
        registry.promote(session, best, owner, how="gate", verdict=verdicts[best.id])
    kept = best or registry.get(session, UUID(judged.detail["baseline_id"]))
    return Succeeded(
        {
            "model_id": str(kept.id),
            "passed": best is not None,
            "unmet": {model.name: _unmet(verdicts, model) for model in candidates},
            "verdicts": {model.name: str(verdicts[model.id].id) for model in candidates},
            "promoted": is_promoted,
        }
    )


def advance(session: Session, pipeline: Pipeline, stage: PipelineStage) -> Outcome:
    """Never needed: the gate decides at once."""
    return start(session, pipeline, stage)


def _blind_of(session: Session, pipeline: Pipeline, spec: Spec) -> BlindEvaluation | None:
    if spec.blind is None:
        return None
    found = base.earlier(session, pipeline, spec.blind).detail["blind_evaluation_id"]
    return blind.get(session, UUID(found))


def _unmet(verdicts: dict[UUID, GateVerdict], model: ModelVersion) -> list[str]:
    """Return one sentence for each threshold that a candidate does not meet."""
    return [check.sentence for check in gate.checks_of(verdicts[model.id]) if not check.passed]
