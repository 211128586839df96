"""PPO: train a policy by sampling answers and letting a reward model score them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from sqlalchemy.orm import Session

from app.models import Pipeline, PipelineStage
from app.services.training.stages import base, training
from app.services.training.stages.base import Outcome
from app.services.training.stages.training import advance

__all__ = ["Spec", "advance", "start"]


class Spec(training.TrainingSpec):
    """As `TrainingSpec`, with the reward model: that of an earlier stage, or one by its name."""

    METHOD: ClassVar[str] = "ppo"

    kind: Literal["ppo"]
    reward_model: base.ModelRef

    def stages_named(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the reward model's stage, too."""
        yield from super().stages_named()
        yield from base.in_ref(self.reward_model, ("reward",))

    def check(self) -> None:
        """Check the options as they will be once the reward model's folder is known."""
        training.check_options(self.METHOD, self.options, self.settings, reward_model="reward_model")


def start(session: Session, pipeline: Pipeline, stage: PipelineStage) -> Outcome:
    """Queue the run."""
    spec = base.spec_of(Spec, pipeline, stage)
    reward_model = base.model_of(session, pipeline, spec.reward_model)
    return training.start(session, pipeline, stage, spec, reward_model=reward_model)
