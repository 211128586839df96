"""Tables of the labeler's world: projects, guidelines, prompts, completions, tasks, assignments, answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Computed, ForeignKey, Index, UniqueConstraint
from sqlalchemy import text as sql  # a column here is named text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db import Base, IdPk, Now


class Project(Base):
    """A collection effort: its guidelines, K answers a task, how many labelers judge each, how long a lease lasts."""

    __tablename__ = "projects"
    __table_args__ = (
        CheckConstraint("k BETWEEN 2 AND 9", name="k"),
        CheckConstraint("overlap BETWEEN 1 AND 16", name="overlap"),
        CheckConstraint("lease_minutes BETWEEN 1 AND 1440", name="lease_minutes"),
        CheckConstraint("held_out_fraction >= 0 AND held_out_fraction <= 0.9", name="held_out_fraction"),
        CheckConstraint("state IN ('open', 'paused', 'archived')", name="state"),
    )

    id: Mapped[IdPk]
    name: Mapped[str] = mapped_column(unique=True)
    k: Mapped[int]
    overlap: Mapped[int]
    lease_minutes: Mapped[int]
    held_out_fraction: Mapped[float]
    state: Mapped[str] = mapped_column(server_default=sql("'open'"))
    created_by: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Now]


class GuidelineVersion(Base):
    """One wording of a project's guidelines, in Markdown. Every ranking names the version it was made under."""

    __tablename__ = "guideline_versions"
    __table_args__ = (UniqueConstraint("project_id", "version"),)

    id: Mapped[IdPk]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    version: Mapped[int]
    body: Mapped[str]
    created_by: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Now]


class Prompt(Base):
    """A conversation that ends on the user's turn; the same conversation stands once in a project."""

    __tablename__ = "prompts"
    __table_args__ = (
        UniqueConstraint("project_id", "content_sha256"),
        UniqueConstraint("project_id", "position"),
        CheckConstraint("split IN ('train', 'held_out')", name="split"),
    )

    id: Mapped[IdPk]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    position: Mapped[int]
    messages: Mapped[list[Any]]
    content_sha256: Mapped[str]
    split: Mapped[str]
    created_at: Mapped[Now]


class Completion(Base):
    """One answer to a prompt, sampled from a model version or written by a person. Never changed."""

    __tablename__ = "completions"
    __table_args__ = (
        CheckConstraint("source IN ('model', 'human')", name="source"),
        UniqueConstraint("run_id", "prompt_id", "sample_index"),
    )

    id: Mapped[IdPk]
    prompt_id: Mapped[UUID] = mapped_column(ForeignKey("prompts.id"), index=True)
    text: Mapped[str]
    source: Mapped[str]
    model_version_id: Mapped[UUID | None] = mapped_column(ForeignKey("model_versions.id"))
    run_id: Mapped[UUID | None] = mapped_column(ForeignKey("runs.id"))
    sample_index: Mapped[int | None]
    sampling: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    finish_reason: Mapped[str | None]
    created_at: Mapped[Now]


class Task(Base):
    """A prompt to be judged (or answered). The counters live here, so the row's lock re-checks them at hand-out."""

    __tablename__ = "tasks"
    __table_args__ = (
        CheckConstraint("kind IN ('ranking', 'demonstration')", name="kind"),
        CheckConstraint("state IN ('draft', 'open', 'closed')", name="state"),
        CheckConstraint("target_overlap BETWEEN 1 AND 16", name="target_overlap"),
        CheckConstraint("open_leases >= 0 AND done_count >= 0", name="counters"),
        CheckConstraint("open_leases + done_count <= target_overlap", name="overlap"),
        UniqueConstraint("sampling_run_id", "prompt_id"),
        Index(
            "uq_tasks_demonstration_prompt_id",
            "prompt_id",
            unique=True,
            postgresql_where=sql("kind = 'demonstration'"),
        ),
        Index(
            "ix_tasks_takeable",
            "project_id",
            "kind",
            sql("priority DESC"),
            "sort_key",
            postgresql_where=sql("takeable AND state = 'open'"),
        ),
    )

    id: Mapped[IdPk]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    prompt_id: Mapped[UUID] = mapped_column(ForeignKey("prompts.id"), index=True)
    kind: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=sql("'draft'"))
    priority: Mapped[int] = mapped_column(server_default=sql("0"))
    sort_key: Mapped[int]
    target_overlap: Mapped[int]
    open_leases: Mapped[int] = mapped_column(server_default=sql("0"))
    done_count: Mapped[int] = mapped_column(server_default=sql("0"))
    takeable: Mapped[bool] = mapped_column(Computed("open_leases + done_count < target_overlap", persisted=True))
    sampling_run_id: Mapped[UUID | None] = mapped_column(ForeignKey("runs.id"))
    created_at: Mapped[Now]

    prompt: Mapped[Prompt] = relationship(lazy="raise")


class TaskCompletion(Base):
    """The answers of a ranking task. `position` is the stored order, not the order anyone is shown."""

    __tablename__ = "task_completions"
    __table_args__ = (UniqueConstraint("task_id", "position"),)

    task_id: Mapped[UUID] = mapped_column(ForeignKey("tasks.id"), primary_key=True)
    completion_id: Mapped[UUID] = mapped_column(ForeignKey("completions.id"), primary_key=True)
    position: Mapped[int]


class Assignment(Base):
    """A task leased to one labeler, with the order in which the answers are shown to them."""

    __tablename__ = "assignments"
    __table_args__ = (
        UniqueConstraint("task_id", "user_id"),
        CheckConstraint("state IN ('leased', 'done', 'skipped', 'expired', 'released')", name="state"),
        CheckConstraint("(state = 'skipped') = (skip_reason IS NOT NULL)", name="skip_reason"),
        Index("ix_assignments_leased", "expires_at", postgresql_where=sql("state = 'leased'")),
        Index("ix_assignments_user_leased", "user_id", postgresql_where=sql("state = 'leased'")),
    )

    id: Mapped[IdPk]
    task_id: Mapped[UUID] = mapped_column(ForeignKey("tasks.id"))
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    state: Mapped[str] = mapped_column(server_default=sql("'leased'"))
    submit_id: Mapped[UUID] = mapped_column(unique=True, server_default=sql("gen_random_uuid()"))
    shown_order: Mapped[list[UUID]] = mapped_column(ARRAY(PG_UUID(as_uuid=True)))
    guideline_version_id: Mapped[UUID] = mapped_column(ForeignKey("guideline_versions.id"))
    expires_at: Mapped[datetime]
    started_at: Mapped[Now]
    finished_at: Mapped[datetime | None]
    skip_reason: Mapped[str | None]

    task: Mapped[Task] = relationship(lazy="raise")


class Ranking(Base):
    """One labeler's ranking, as given: tie groups of completion ids, best first. Append-only.

    `counted` is false for work that came after the lease had gone to another; it is kept, with its reason.
    """

    __tablename__ = "rankings"
    __table_args__ = (
        CheckConstraint("counted OR not_counted_reason IS NOT NULL", name="not_counted_reason"),
        Index("ix_rankings_project_created", "project_id", "created_at", "id"),
    )

    id: Mapped[IdPk]
    submit_id: Mapped[UUID] = mapped_column(unique=True)
    body_sha256: Mapped[str]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    task_id: Mapped[UUID] = mapped_column(ForeignKey("tasks.id"), index=True)
    assignment_id: Mapped[UUID] = mapped_column(ForeignKey("assignments.id"))
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), index=True)
    guideline_version_id: Mapped[UUID] = mapped_column(ForeignKey("guideline_versions.id"))
    groups: Mapped[list[Any]]
    shown_order: Mapped[list[UUID]] = mapped_column(ARRAY(PG_UUID(as_uuid=True)))
    is_simulated: Mapped[bool]
    counted: Mapped[bool]
    not_counted_reason: Mapped[str | None]
    seconds: Mapped[float]
    supersedes: Mapped[UUID | None] = mapped_column(ForeignKey("rankings.id"), unique=True)
    created_at: Mapped[Now]


class Demonstration(Base):
    """The ideal answer to a prompt, written by a labeler. Append-only."""

    __tablename__ = "demonstrations"
    __table_args__ = (CheckConstraint("counted OR not_counted_reason IS NOT NULL", name="not_counted_reason"),)

    id: Mapped[IdPk]
    submit_id: Mapped[UUID] = mapped_column(unique=True)
    body_sha256: Mapped[str]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"), index=True)
    task_id: Mapped[UUID] = mapped_column(ForeignKey("tasks.id"), index=True)
    assignment_id: Mapped[UUID] = mapped_column(ForeignKey("assignments.id"))
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), index=True)
    guideline_version_id: Mapped[UUID] = mapped_column(ForeignKey("guideline_versions.id"))
    text: Mapped[str]
    is_simulated: Mapped[bool]
    counted: Mapped[bool]
    not_counted_reason: Mapped[str | None]
    seconds: Mapped[float]
    created_at: Mapped[Now]
