"""KTO: train a policy from the line that labelers drew between acceptable answers and others."""

from __future__ import annotations

from typing import ClassVar, Literal

from sqlalchemy.orm import Session

from app.models import Pipeline, PipelineStage
from app.services.training.stages import base, training
from app.services.training.stages.base import Outcome
from app.services.training.stages.training import advance

__all__ = ["Spec", "advance", "start"]


class Spec(training.TrainingSpec):
    """See `TrainingSpec`."""

    METHOD: ClassVar[str] = "kto"

    kind: Literal["kto"]


def start(session: Session, pipeline: Pipeline, stage: PipelineStage) -> Outcome:
    """Queue the run."""
    return training.start(session, pipeline, stage, base.spec_of(Spec, pipeline, stage))
