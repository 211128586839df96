"""Tables of the weekly loop: schedules with their due times, pipelines with their stages."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, IdPk, Now

PIPELINE_STATES = ("running", "succeeded", "failed", "cancelled")
STAGE_STATES = ("waiting", "running", "succeeded", "failed", "skipped", "cancelled")


class Schedule(Base):
    """When a project's recipe is due: a cron expression in a time zone, and what happens to due times that collide.

    `next_due_at` is the earliest due time without a row in `occurrences`; both move in one transaction. `choices` is
    what the plain form said; null where the recipe was written by hand. `version` grows with every edit.
    """

    __tablename__ = "schedules"
    __table_args__ = (
        CheckConstraint("catch_up IN ('latest', 'all', 'skip')", name="catch_up"),
        CheckConstraint("overlap IN ('skip', 'queue', 'cancel_running')", name="overlap"),
        CheckConstraint("min_new_rankings >= 0", name="min_new_rankings"),
        UniqueConstraint("project_id", "name"),
        Index("ix_schedules_next_due_at", "next_due_at"),
    )

    id: Mapped[IdPk]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    cron: Mapped[str]
    timezone: Mapped[str]
    recipe: Mapped[dict[str, Any]]
    choices: Mapped[dict[str, Any] | None]
    min_new_rankings: Mapped[int] = mapped_column(server_default=text("0"))
    catch_up: Mapped[str] = mapped_column(server_default=text("'latest'"))
    overlap: Mapped[str] = mapped_column(server_default=text("'skip'"))
    paused: Mapped[bool] = mapped_column(server_default=text("false"))
    next_due_at: Mapped[datetime]
    version: Mapped[int] = mapped_column(server_default=text("1"))
    created_by: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Now]


class Pipeline(Base):
    """One round of a recipe: its stages in order. At most one pipeline of a schedule is running.

    A retry takes a pipeline that failed or was cancelled back to running, with `attempt` + 1.
    """

    __tablename__ = "pipelines"
    __table_args__ = (
        CheckConstraint("state IN ('running', 'succeeded', 'failed', 'cancelled')", name="state"),
        CheckConstraint("(state = 'running') = (finished_at IS NULL)", name="finished_at"),
        UniqueConstraint("project_id", "number"),
        Index("uq_pipelines_running", "schedule_id", unique=True, postgresql_where=text("state = 'running'")),
        Index("ix_pipelines_running", "id", postgresql_where=text("state = 'running'")),
        Index("ix_pipelines_schedule_id", "schedule_id", "created_at"),
    )

    id: Mapped[IdPk]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    number: Mapped[int]
    name: Mapped[str]
    recipe: Mapped[dict[str, Any]]
    schedule_id: Mapped[UUID | None] = mapped_column(ForeignKey("schedules.id"))
    state: Mapped[str] = mapped_column(server_default=text("'running'"))
    reason: Mapped[str | None]
    attempt: Mapped[int] = mapped_column(server_default=text("1"))
    dedupe_key: Mapped[str] = mapped_column(unique=True)
    created_by: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Now]
    finished_at: Mapped[datetime | None]


class PipelineStage(Base):
    """One attempt at one stage. A retry adds a row with a larger `attempt`; the newest of a position counts.

    `detail` holds what the stage left behind, by database id: {"snapshot_id": …}, {"model_id": …}, …
    """

    __tablename__ = "pipeline_stages"
    __table_args__ = (
        CheckConstraint("state IN ('waiting', 'running', 'succeeded', 'failed', 'skipped', 'cancelled')", name="state"),
        CheckConstraint(
            "(state IN ('succeeded', 'failed', 'skipped', 'cancelled')) = (finished_at IS NOT NULL)",
            name="finished_at",
        ),
        UniqueConstraint("pipeline_id", "position", "attempt"),
        Index("ix_pipeline_stages_run_id", "run_id"),
    )

    id: Mapped[IdPk]
    pipeline_id: Mapped[UUID] = mapped_column(ForeignKey("pipelines.id"))
    position: Mapped[int]
    attempt: Mapped[int] = mapped_column(server_default=text("1"))
    kind: Mapped[str]
    name: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=text("'waiting'"))
    reason: Mapped[str | None]
    run_id: Mapped[UUID | None] = mapped_column(ForeignKey("runs.id"))
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Occurrence(Base):
    """What became of one due time, or of one "run now": written in the transaction that makes the pipeline.

    The primary key lets every due time of a schedule have one row, whoever looks and however often.
    """

    __tablename__ = "occurrences"
    __table_args__ = (
        CheckConstraint("state IN ('started', 'queued', 'skipped')", name="state"),
        CheckConstraint("(state = 'started') = (pipeline_id IS NOT NULL)", name="pipeline_id"),
        CheckConstraint("state <> 'skipped' OR reason IS NOT NULL", name="reason"),
        Index("ix_occurrences_queued", "schedule_id", "due_at", postgresql_where=text("state = 'queued'")),
    )

    schedule_id: Mapped[UUID] = mapped_column(ForeignKey("schedules.id"), primary_key=True)
    due_at: Mapped[datetime] = mapped_column(primary_key=True)
    state: Mapped[str]
    reason: Mapped[str | None]
    pipeline_id: Mapped[UUID | None] = mapped_column(ForeignKey("pipelines.id"), unique=True)
    asked_by: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Now]
