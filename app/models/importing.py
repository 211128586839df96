"""Table of imports: where rankings that were not made here came from."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, IdPk, Now


class Import(Base):
    """One file of rankings that was stored, all or nothing. `judge` is what judged in it: people, or a model.

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
