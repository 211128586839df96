"""Tables of imports: where what was not made here came from, and files that are still being sent."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, text
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
