"""Tables of the weekly rounds: what a reward model said of the tasks that wait."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, Now


class TaskScore(Base):
    """What the last scoring run that placed a task said of it, and whether chance or the policy `picked` it.

    Tasks that were picked at random are a fair sample of all that waited; the others are what the model finds hard.
    """

    __tablename__ = "task_scores"
    __table_args__ = (
        CheckConstraint("picked IN ('random', 'uncertainty', 'margin')", name="picked"),
        CheckConstraint("information >= 0 AND spread >= 0 AND margin >= 0", name="figures"),
    )

    task_id: Mapped[UUID] = mapped_column(ForeignKey("tasks.id"), primary_key=True)
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id"))
    picked: Mapped[str]
    information: Mapped[float]
    spread: Mapped[float]
    margin: Mapped[float]
    created_at: Mapped[Now]
