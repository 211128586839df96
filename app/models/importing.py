"""Tables of imports: where what was not made here came from, files on their way, and jobs of a worker."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, IdPk, Now


class Import(Base):
    """One file that was stored, all or nothing. `judge` is what judged or wrote what is in it: people, or a model.

    `dataset` names where it comes from: the same labeler's name in two files of one dataset is one labeler.
    """

    __tablename__ = "imports"
    __table_args__ = (CheckConstraint("judge IN ('human', 'ai')", name="judge"),)

    id: Mapped[IdPk]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"), index=True)
    dataset: Mapped[str]
    format: Mapped[str]
    judge: Mapped[str]
    report: Mapped[dict[str, Any]]
    created_by: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Now]


class Upload(Base):
    """A file that comes in pieces: `received` of its `size` bytes lie in the folder of uploads, under its id."""

    __tablename__ = "uploads"
    __table_args__ = (CheckConstraint("received BETWEEN 0 AND size", name="received"),)

    id: Mapped[IdPk]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"), index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    received: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    created_by: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Now]


class Job(Base):
    """A snapshot or an import that takes longer than a request may: the row is the job, and a worker does it.

    `progress` goes from 0 to 1. `result` is what it came to: a snapshot's id, or the report of an import; `reason` is a
    sentence that says why it failed (or why it waits again), `details` what was wrong by line number.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("kind IN ('snapshot', 'import')", name="kind"),
        CheckConstraint("state IN ('queued', 'running', 'succeeded', 'failed')", name="state"),
        CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="lease_until"),
        CheckConstraint("(state = 'succeeded') = (result IS NOT NULL)", name="result"),
        Index(
            "uq_jobs_queued_snapshot",
            "project_id",
            unique=True,
            postgresql_where=text("kind = 'snapshot' AND state = 'queued' AND attempt = 0"),
        ),
        Index("uq_jobs_upload_id", "upload_id", unique=True, postgresql_where=text("state IN ('queued', 'running')")),
    )

    id: Mapped[IdPk]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"), index=True)
    kind: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=text("'queued'"))
    asked: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    upload_id: Mapped[UUID | None] = mapped_column(ForeignKey("uploads.id", ondelete="SET NULL"))
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    lease_until: Mapped[datetime | None]
    progress: Mapped[float] = mapped_column(server_default=text("0"))
    result: Mapped[dict[str, Any] | None]
    reason: Mapped[str | None]
    details: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"))
    created_by: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Now]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
