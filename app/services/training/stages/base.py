"""What every kind of stage shares: how its part of the recipe is read, what it may answer, and how it finds its inputs.

A kind is a module with a `Spec`, `start(session, pipeline, stage)` and `advance(session, pipeline, stage)`. `start` is
called once for an attempt, `advance` in every tick from then on; both run in the transaction that stores what they
answer, with the pipeline's row locked. They answer `Running`, `Succeeded` or `Failed`; a `PlackettError` is a failure
with its sentence. They never write to the pipeline or its stages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session

from app.errors import InvalidInputError
from app.models import ModelVersion, Pipeline, PipelineStage, Snapshot, User
from app.services.training import registry, snapshots

STAGE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}", re.ASCII)
IN_USE, NEWEST_SFT, BASE, EARLIER = "in_use", "newest_sft", "base", "earlier"
OF_STAGE, BY_NAME = "stage:", "model:"

ModelRef = Annotated[
    str, StringConstraints(pattern=r"^(in_use|newest_sft|base|earlier|stage:[a-z0-9_-]+|model:[\w.-]+)$")
]
"""Which model: the policy `in_use`, the `newest_sft` model, the `base` model (the project's first policy), the policy
that was in use `earlier`, what an earlier `stage:NAME` left, or the `model:NAME`. With none in use, `in_use` is the
newest SFT model, or else the base; with none before it, `earlier` is the base."""

Name = Annotated[str, StringConstraints(pattern=rf"^{STAGE_NAME.pattern}$")]


class StageSpec(BaseModel):
    """One stage of a recipe, closed: a key that its kind does not have is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name

    def stages_named(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield each earlier stage that this one refers to, with the kinds that it may be of."""
        yield from ()

    def check(self) -> None:
        """Raise `InvalidInputError` for what the types alone do not refuse."""


class RunSettings(BaseModel):
    """The keys of run.json that every method has; what is left out is the trainer's own default.

    `gpus` is none of them: it says how many devices the run asks for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int | None = None
    precision: Literal["auto", "float32", "bfloat16"] | None = None
    max_length: int | None = None
    checkpoint_steps: int | None = None
    lora: dict[str, Any] | None = None
    gpus: int | None = Field(default=None, ge=1)

    def keywords(self) -> dict[str, Any]:
        """Return what was set, as keyword arguments of `runs.create_…`."""
        return self.config() | ({"gpus": self.gpus} if self.gpus not in (None, 1) else {})

    def config(self) -> dict[str, Any]:
        """Return what was set of run.json."""
        return self.model_dump(exclude_none=True, exclude={"gpus"})


NO_SETTINGS = RunSettings()
Options = Annotated[dict[str, Any], Field(default_factory=dict)]


@dataclass(frozen=True)
class Running:
    """The stage has begun and is not done; `run_id` is the run it waits for, `detail` what is known so far."""

    run_id: UUID | None = None
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Succeeded:
    """The stage is done; `detail` is what later stages and pages find, ids as text."""

    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """The stage cannot be done, in one sentence."""

    reason: str


Outcome = Running | Succeeded | Failed


class Kind(Protocol):
    """A module of this package."""

    @property
    def Spec(self) -> type[StageSpec]: ...  # noqa: D102, N802 # a class of the module
    def start(self, session: Session, pipeline: Pipeline, stage: PipelineStage, /) -> Outcome: ...  # noqa: D102
    def advance(self, session: Session, pipeline: Pipeline, stage: PipelineStage, /) -> Outcome: ...  # noqa: D102


S = TypeVar("S", bound=StageSpec)


def spec_of(spec: type[S], pipeline: Pipeline, stage: PipelineStage) -> S:
    """Return the stage's part of the recipe, which was checked when the pipeline was made."""
    return spec.model_validate(pipeline.recipe["stages"][stage.position])


def owner(session: Session, pipeline: Pipeline) -> User:
    """Return on whose behalf the pipeline works: who started it, or made its schedule."""
    return session.get_one(User, pipeline.created_by)


def key(stage: PipelineStage) -> str:
    """Return the key under which an attempt at a stage makes its run, so that it never makes two."""
    return f"stage:{stage.id}"


def current(session: Session, pipeline_id: UUID) -> list[PipelineStage]:
    """Return the stages of a pipeline in order, of each the newest attempt."""
    newest = (
        select(PipelineStage)
        .where(PipelineStage.pipeline_id == pipeline_id)
        .ext(distinct_on(PipelineStage.position))
        .order_by(PipelineStage.position, PipelineStage.attempt.desc())
        .execution_options(populate_existing=True)
    )
    return list(session.scalars(newest))


def earlier(session: Session, pipeline: Pipeline, name: str) -> PipelineStage:
    """Return the earlier stage of this name, which has succeeded: stages start in order."""
    found = next((stage for stage in current(session, pipeline.id) if stage.name == name), None)
    if found is None or found.state != "succeeded":
        raise InvalidInputError(f"The stage “{name}” has left nothing behind, and this stage needs it.")
    return found


def snapshot_of(session: Session, pipeline: Pipeline, name: str) -> Snapshot:
    """Return the snapshot that an earlier stage has frozen."""
    return snapshots.get(session, UUID(earlier(session, pipeline, name).detail["snapshot_id"]))


def model_of(session: Session, pipeline: Pipeline, ref: str) -> ModelVersion:
    """Return the model that a reference means now; raise `InvalidInputError` when there is none."""
    if ref.startswith(OF_STAGE):
        name = ref.removeprefix(OF_STAGE)
        model_id = earlier(session, pipeline, name).detail.get("model_id")
        if model_id is None:
            raise InvalidInputError(f"The stage “{name}” has left no model behind, and this stage needs one.")
        return registry.get(session, UUID(model_id))
    if ref.startswith(BY_NAME):
        name = ref.removeprefix(BY_NAME)
        found = session.scalar(
            select(ModelVersion).where(ModelVersion.project_id == pipeline.project_id, ModelVersion.name == name)
        )
        if found is None:
            raise InvalidInputError(f"This project has no model named “{name}”.")
        return found
    if ref == EARLIER:
        retired = session.scalar(
            select(ModelVersion)
            .where(ModelVersion.project_id == pipeline.project_id, ModelVersion.state == "retired")
            .order_by(ModelVersion.promoted_at.desc(), ModelVersion.id.desc())
            .limit(1)
        )
        if retired is not None:
            return retired
    if ref == IN_USE:
        promoted = session.scalar(
            select(ModelVersion).where(ModelVersion.project_id == pipeline.project_id, ModelVersion.state == "promoted")
        )
        if promoted is not None:
            return promoted
    start = registry.usual_start(session, pipeline.project_id, "sft" if ref in (BASE, EARLIER) else "dpo")
    if start is None:
        raise InvalidInputError("The project has no policy to start from; register a base model first.")
    return registry.get(session, start)


def in_ref(ref: str | None, kinds: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the stage that a model reference names, if it names one."""
    if ref is not None and ref.startswith(OF_STAGE):
        yield ref.removeprefix(OF_STAGE), kinds
