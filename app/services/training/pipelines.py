"""Pipelines: rounds of a recipe. Each transition is one guarded UPDATE, made with the pipeline's row locked.

    running ─► succeeded                    the last stage succeeded
       │ └───► failed, cancelled            its stage's reason; the stages after it are skipped
       └◄────── retry (attempt + 1)         new rows for what did not succeed; what succeeded stays

The stages of a pipeline run one after the other. `step` makes at most one transition and is called in every tick; a
second tick at the same time finds the row locked and does nothing. An error rolls the whole step back, so the caller
then stores it with `break_off`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.errors import ConflictError, NotFoundError
from app.models import Pipeline, PipelineStage, Project, User
from app.services.accounts import audit
from app.services.training import run_states
from app.services.training.recipes import Recipe
from app.services.training.stages import KINDS, base
from app.services.training.stages.base import Failed, Running, Succeeded

NOW = func.clock_timestamp()
OPEN = ("waiting", "running")


def create(
    session: Session,
    project: Project,
    user: User,
    recipe: Recipe,
    *,
    name: str,
    dedupe_key: str | None = None,
    schedule_id: UUID | None = None,
) -> Pipeline:
    """Start a round of a recipe; its first stage begins in the next tick. The same key gives the same pipeline."""
    # Rounds of a project are numbered without gaps or doubles, because whoever makes one holds the project's row.
    session.execute(select(Project.id).where(Project.id == project.id).with_for_update(key_share=True))
    number = session.scalar(
        select(func.coalesce(func.max(Pipeline.number), 0) + 1).where(Pipeline.project_id == project.id)
    )
    key = dedupe_key or f"{user.id}:{uuid4()}"
    made: Pipeline | None = session.scalar(
        upsert(Pipeline)
        .values(
            project_id=project.id,
            number=number,
            name=name,
            recipe=recipe.as_json(),
            schedule_id=schedule_id,
            dedupe_key=key,
            created_by=user.id,
        )
        .on_conflict_do_nothing(index_elements=[Pipeline.dedupe_key])
        .returning(Pipeline)
    )
    if made is None:
        return session.execute(select(Pipeline).where(Pipeline.dedupe_key == key)).scalar_one()
    session.execute(
        insert(PipelineStage),
        [
            {"pipeline_id": made.id, "position": position, "kind": str(row["kind"]), "name": row["name"]}
            for position, row in enumerate(made.recipe["stages"])
        ],
    )
    return made


def running(session: Session) -> list[UUID]:
    """Return the pipelines that a tick looks at, the oldest first."""
    return list(session.scalars(select(Pipeline.id).where(Pipeline.state == "running").order_by(Pipeline.id)))


def step(session: Session, pipeline_id: UUID) -> bool:
    """Look at the first stage that is not done; return whether it has moved, so that looking again may find more."""
    pipeline = _locked(session, pipeline_id, skip_locked=True)
    if pipeline is None:
        return False
    stage = _open_stage(session, pipeline.id)
    if stage is None:
        _end(session, pipeline, "succeeded", None)
        return False
    kind = KINDS[stage.kind]
    begins = stage.state == "waiting"
    outcome = (kind.start if begins else kind.advance)(session, pipeline, stage)
    match outcome:
        case Running(run_id, detail):
            if begins:
                _move(session, stage, "running", started_at=NOW, run_id=run_id, detail=detail)
            elif detail and detail != stage.detail:
                _move(session, stage, "running", detail=detail)
            return False
        case Succeeded(detail):
            started = {"started_at": NOW} if begins else {}
            _move(session, stage, "succeeded", finished_at=NOW, detail=detail, **started)
        case Failed(reason):
            _fail(session, pipeline, stage, reason)
    return True


def break_off(session: Session, pipeline_id: UUID, reason: str) -> None:
    """Let the stage that could not be carried on fail, and the pipeline with it."""
    pipeline = _locked(session, pipeline_id)
    stage = _open_stage(session, pipeline_id) if pipeline is not None else None
    if pipeline is not None and stage is not None:
        _fail(session, pipeline, stage, reason)


def cancel(session: Session, pipeline_id: UUID, user: User, reason: str = "Cancelled on request.") -> None:
    """Cancel a running pipeline and the run it waits for; asking twice is the same as asking once."""
    pipeline = _locked(session, pipeline_id)
    if pipeline is None:
        state = get(session, pipeline_id).state
        if state == "cancelled":
            return
        raise ConflictError(f"This round has already {state}, so there is nothing to cancel.")
    for stage in base.current(session, pipeline.id):
        if stage.state not in OPEN:
            continue
        if stage.run_id is not None:
            _cancel_run(session, stage.run_id, user)
        _move(session, stage, "cancelled", finished_at=NOW, reason=reason)
    _end(session, pipeline, "cancelled", reason)
    audit.record(session, user, "pipeline.cancelled", "pipeline", pipeline.id)


def retry(session: Session, pipeline_id: UUID, user: User) -> None:
    """Take a pipeline that failed or was cancelled up again, at the stage that did not succeed.

    Raises `ConflictError` when it runs or has succeeded, or when another round of its schedule is running.
    """
    get(session, pipeline_id)
    try:
        with session.begin_nested():
            resumed = session.execute(
                update(Pipeline)
                .where(Pipeline.id == pipeline_id, Pipeline.state.in_(("failed", "cancelled")))
                .values(state="running", reason=None, finished_at=None, attempt=Pipeline.attempt + 1)
                .returning(Pipeline.attempt)
            ).scalar_one_or_none()
    except IntegrityError:
        raise ConflictError(
            "Another round of this schedule is running. Wait until it has ended, or cancel it, then retry this one."
        ) from None
    if resumed is None:
        state = get(session, pipeline_id).state
        raise ConflictError(
            f"This round {'is' if state == 'running' else 'has'} {state}, so there is nothing to retry."
        )
    session.execute(
        insert(PipelineStage),
        [
            {
                "pipeline_id": pipeline_id,
                "position": stage.position,
                "attempt": resumed,
                "kind": stage.kind,
                "name": stage.name,
            }
            for stage in base.current(session, pipeline_id)
            if stage.state != "succeeded"
        ],
    )
    audit.record(session, user, "pipeline.retried", "pipeline", pipeline_id, attempt=resumed)


def get(session: Session, pipeline_id: UUID) -> Pipeline:
    """Return a pipeline as it is stored now, or raise `NotFoundError`."""
    pipeline = session.get(Pipeline, pipeline_id, populate_existing=True)
    if pipeline is None:
        raise NotFoundError("There is no such round.")
    return pipeline


def of_project(session: Session, project_id: UUID, limit: int = 100) -> Sequence[Pipeline]:
    """Return a project's pipelines, the newest first."""
    query = select(Pipeline).where(Pipeline.project_id == project_id).order_by(Pipeline.number.desc())
    return session.scalars(query.limit(limit)).all()


def stages_of(session: Session, pipeline_id: UUID) -> list[PipelineStage]:
    """Return the stages of a pipeline in order, of each the newest attempt."""
    return base.current(session, pipeline_id)


def _locked(session: Session, pipeline_id: UUID, *, skip_locked: bool = False) -> Pipeline | None:
    """Return the pipeline with its row locked while it runs; None when it does not, or when somebody else has it."""
    return session.scalar(
        select(Pipeline)
        .where(Pipeline.id == pipeline_id, Pipeline.state == "running")
        .with_for_update(key_share=True, skip_locked=skip_locked)
        .execution_options(populate_existing=True)
    )


def _open_stage(session: Session, pipeline_id: UUID) -> PipelineStage | None:
    return next((stage for stage in base.current(session, pipeline_id) if stage.state in OPEN), None)


def _fail(session: Session, pipeline: Pipeline, stage: PipelineStage, reason: str) -> None:
    _move(
        session,
        stage,
        "failed",
        finished_at=NOW,
        started_at=func.coalesce(PipelineStage.started_at, NOW),
        reason=reason,
    )
    for later in base.current(session, pipeline.id):
        if later.state == "waiting":
            _move(session, later, "skipped", finished_at=NOW, reason=f"The stage “{stage.name}” before it failed.")
    _end(session, pipeline, "failed", f"The stage “{stage.name}” failed: {reason}")


def _move(session: Session, stage: PipelineStage, state: str, **values: Any) -> None:
    """Make one transition of a stage from the state that was read, which the pipeline's lock lets nobody change."""
    session.execute(
        update(PipelineStage)
        .where(PipelineStage.id == stage.id, PipelineStage.state == stage.state)
        .values(state=state, **values)
        .returning(PipelineStage.id),
        execution_options={"synchronize_session": False},
    ).one()


def _end(session: Session, pipeline: Pipeline, state: str, reason: str | None) -> None:
    session.execute(
        update(Pipeline)
        .where(Pipeline.id == pipeline.id, Pipeline.state == "running")
        .values(state=state, reason=reason, finished_at=NOW)
        .returning(Pipeline.id),
        execution_options={"synchronize_session": False},
    ).one()


def _cancel_run(session: Session, run_id: UUID, user: User) -> None:
    with suppress(ConflictError):  # it has just ended by itself, which is as good
        run_states.request_cancel(session, run_id, user.id)
