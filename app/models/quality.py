"""Tables of the labels' quality: computed reports, and disagreements that a reviewer has let stand."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlalchemy import text as sql
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, IdPk, Now


class QualityReport(Base):
    """A project's quality at one moment. The row is the job: asked for first, then computed by a worker.

    `body` is what `app.services.quality.quality_figures` makes; `problem` is a sentence when it could not be computed.
    """

    __tablename__ = "quality_reports"
    __table_args__ = (
        CheckConstraint("(computed_at IS NULL) = (body IS NULL AND problem IS NULL)", name="computed_at"),
        Index("uq_quality_reports_waiting", "project_id", unique=True, postgresql_where=sql("computed_at IS NULL")),
        Index("ix_quality_reports_project_id_computed_at", "project_id", "computed_at"),
    )

    id: Mapped[IdPk]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    requested_by: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))
    requested_at: Mapped[Now]
    computed_at: Mapped[datetime | None]
    body: Mapped[dict[str, Any] | None]
    problem: Mapped[str | None]


class Dismissal(Base):
    """A reviewer's word that a task's rankings may differ as they do; it holds until another ranking comes in."""

    __tablename__ = "dismissals"

    task_id: Mapped[UUID] = mapped_column(ForeignKey("tasks.id"), primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Now]
