"""Tables around a labeler's desk: drafts, flags, guidelines read, memberships, and work that is set aside."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlalchemy import text as sql
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, IdPk, Now


class Draft(Base):
    """What a labeler has filled in so far, as form fields; it goes when the answer is stored."""

    __tablename__ = "drafts"

    assignment_id: Mapped[UUID] = mapped_column(ForeignKey("assignments.id"), primary_key=True)
    fields: Mapped[dict[str, Any]]
    saved_at: Mapped[Now]


class Flag(Base):
    """A labeler's word that something is wrong with a task, for a reviewer to settle."""

    __tablename__ = "flags"
    __table_args__ = (
        CheckConstraint("resolution IN ('closed', 'dismissed')", name="resolution"),
        CheckConstraint("(resolution IS NULL) = (resolved_at IS NULL)", name="resolved_at"),
        Index("uq_flags_open", "task_id", "user_id", unique=True, postgresql_where=sql("resolved_at IS NULL")),
    )

    id: Mapped[IdPk]
    task_id: Mapped[UUID] = mapped_column(ForeignKey("tasks.id"), index=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    reason: Mapped[str]
    note: Mapped[str] = mapped_column(server_default=sql("''"))
    created_at: Mapped[Now]
    resolution: Mapped[str | None]
    resolved_by: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))
    resolved_at: Mapped[datetime | None]


class GuidelineRead(Base):
    """The newest version of a project's guidelines that a labeler says to have read."""

    __tablename__ = "guideline_reads"

    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), primary_key=True)
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    guideline_version_id: Mapped[UUID] = mapped_column(ForeignKey("guideline_versions.id"))
    read_at: Mapped[Now]


class Membership(Base):
    """A labeler's standing in a project: on trial, let in, turned down after the trial, or taken out."""

    __tablename__ = "memberships"
    __table_args__ = (
        CheckConstraint("state IN ('screening', 'active', 'rejected', 'removed')", name="state"),
        Index("ix_memberships_user_id", "user_id"),
    )

    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), primary_key=True)
    state: Mapped[str]
    score: Mapped[float | None]
    created_at: Mapped[Now]
    decided_by: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))
    decided_at: Mapped[datetime | None]


class Quarantine(Base):
    """A labeler's work, or everyone's, of a time range, that no snapshot takes until the quarantine is lifted."""

    __tablename__ = "quarantines"
    __table_args__ = (
        CheckConstraint("starts_at IS NULL OR ends_at IS NULL OR starts_at < ends_at", name="range"),
        CheckConstraint("user_id IS NOT NULL OR starts_at IS NOT NULL OR ends_at IS NOT NULL", name="bounded"),
    )

    id: Mapped[IdPk]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"), index=True)
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))
    starts_at: Mapped[datetime | None]
    ends_at: Mapped[datetime | None]
    reason: Mapped[str]
    created_by: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Now]
    lifted_by: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))
    lifted_at: Mapped[datetime | None]
