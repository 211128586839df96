"""PPO: train a policy by sampling answers and letting a reward model score them."""

from __future__ import annotations

from typing import ClassVar, Literal

from sqlalchemy.orm import Session

from app.models import Pipeline, PipelineStage
from app.services.training.stages import base, training
from app.services.training.stages.base import Outcome
from app.services.training.stages.training import advance

__all__ = ["Spec", "advance", "start"]


class Spec(training.ScoredSpec):
    """See `ScoredSpec`."""

    METHOD: ClassVar[str] = "ppo"

    kind: Literal["ppo"]


def start(session: Session, pipeline: Pipeline, stage: PipelineStage) -> Outcome:
    """Queue the run."""
    return training.start_scored(session, pipeline, stage, base.spec_of(Spec, pipeline, stage))
