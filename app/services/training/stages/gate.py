"""The gate: hold candidates' evaluations against thresholds, and promote one where the recipe says automatically.

That none passes is no failure of the pipeline: the gate then leaves the baseline as its model, so that later stages go
on with the best there is. A threshold whose figure was not measured is not met.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal
from uuid import UUID

from pydantic import Field
from sqlalchemy.orm import Session

from app.errors import InvalidInputError
from app.models import ModelVersion, Pipeline, PipelineStage
from app.services.training import registry
from app.services.training.stages import base, training
from app.services.training.stages.base import Outcome, Succeeded


class Spec(base.StageSpec):
    """The evaluation to read, the candidates, the thresholds, and who promotes a candidate that passes."""

    kind: Literal["gate"]
    evaluation: base.Name
    candidates: list[base.ModelRef] = Field(min_length=1, max_length=16)
    min_reward_accuracy: float | None = Field(default=None, ge=0, le=1)
    min_win_rate: float | None = Field(default=None, ge=0, le=1)
    max_kl: float | None = Field(default=None, ge=0)
    promote: Literal["by_hand", "automatically"] = "by_hand"

    def stages_named(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the evaluation's stage and the candidates'."""
        yield self.evaluation, ("evaluate",)
        for ref in self.candidates:
            yield from base.in_ref(ref, ("sft", "dpo", "ppo"))


def start(session: Session, pipeline: Pipeline, stage: PipelineStage) -> Outcome:
    """Decide, from figures that are all there: of the candidates that pass, the one that wins most often."""
    spec = base.spec_of(Spec, pipeline, stage)
    candidates = [base.model_of(session, pipeline, ref) for ref in spec.candidates]
    judged = base.earlier(session, pipeline, spec.evaluation)
    summary = (training.run_of(session, judged).report or {}).get("summary", {})
    misses = {model.name: unmet(spec, model, summary) for model in candidates}
    passed = [model for model in candidates if not misses[model.name]]
    best = max(passed, key=lambda model: summary["policies"][model.name].get("win_rate") or 0.0, default=None)
    if best is not None and spec.promote == "automatically":
        registry.promote(session, best, base.owner(session, pipeline))
    kept = best or registry.get(session, UUID(judged.detail["baseline_id"]))
    return Succeeded(
        {
            "model_id": str(kept.id),
            "passed": best is not None,
            "unmet": misses,
            "promoted": best is not None and spec.promote == "automatically",
        }
    )


def advance(session: Session, pipeline: Pipeline, stage: PipelineStage) -> Outcome:
    """Never needed: the gate decides at once."""
    return start(session, pipeline, stage)


def unmet(spec: Spec, candidate: ModelVersion, summary: dict[str, Any]) -> list[str]:
    """Return one sentence for each threshold that the evaluation's figures do not meet."""
    figures = summary.get("policies", {}).get(candidate.name)
    if figures is None:
        raise InvalidInputError(f"The evaluation did not judge {candidate.name}, so the gate cannot tell.")
    checks = (
        ("accuracy of the reward model", summary.get("held_out_accuracy"), spec.min_reward_accuracy, None),
        ("win rate", figures.get("win_rate"), spec.min_win_rate, None),
        ("KL", figures.get("kl"), None, spec.max_kl),
    )
    sentences = []
    for name, value, least, most in checks:
        if least is None and most is None:
            continue
        if value is None:
            sentences.append(f"The {name} was not measured.")
        elif least is not None and value < least:
            sentences.append(f"The {name} is {value:.3g}, below {least:g}.")
        elif most is not None and value > most:
            sentences.append(f"The {name} is {value:.3g}, above {most:g}.")
    return sentences
