"""Blind evaluation: let labelers judge the candidate against the baseline without knowing it, and wait for the verdict.

It takes as long as the labelers take. Any verdict is a success of the stage: what follows from it is the gate's to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal
from uuid import UUID

from pydantic import Field
from sqlalchemy.orm import Session

from app.models import BlindEvaluation, Pipeline, PipelineStage, Project
from app.services.evaluation import blind, blind_figures
from app.services.training import registry
from app.services.training.stages import base, training
from app.services.training.stages.base import Outcome, Running, Succeeded


class Spec(base.StageSpec):
    """The evaluation whose answers are judged, the candidate among its policies, and how many labelers judge each."""

    kind: Literal["blind"]
    evaluation: base.Name
    candidate: base.ModelRef
    overlap: int = Field(default=1, ge=1, le=16)

    def stages_named(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the evaluation's stage and the candidate's."""
        yield self.evaluation, ("evaluate",)
        yield from base.in_ref(self.candidate, training.POLICY_STAGES)


def start(session: Session, pipeline: Pipeline, stage: PipelineStage) -> Outcome:
    """Open the tasks, against the baseline that the evaluation was made with."""
    spec = base.spec_of(Spec, pipeline, stage)
    judged = base.earlier(session, pipeline, spec.evaluation)
    evaluation = blind.start(
        session,
        session.get_one(Project, pipeline.project_id),
        base.owner(session, pipeline),
        training.run_of(session, judged),
        base.model_of(session, pipeline, spec.candidate),
        registry.get(session, UUID(judged.detail["baseline_id"])),
        overlap=spec.overlap,
    )
    return _outcome(session, evaluation)


def advance(session: Session, _pipeline: Pipeline, stage: PipelineStage) -> Outcome:
    """Look whether the labelers have decided it."""
    return _outcome(session, blind.follow(session, UUID(stage.detail["blind_evaluation_id"])))


def _outcome(session: Session, evaluation: BlindEvaluation) -> Outcome:
    detail: dict[str, Any] = {"blind_evaluation_id": str(evaluation.id)}
    if evaluation.state == "open":
        return Running(detail=detail)
    figures = asdict(blind_figures.known(session, evaluation))
    return Succeeded({**detail, **{name: figures[name] for name in ("verdict", "win_rate", "low", "high", "judged")}})
