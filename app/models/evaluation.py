"""Tables of judging policies: blind evaluations, thresholds and verdicts of the gate, and who was active when."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint
from sqlalchemy import text as sql
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, IdPk, Now


class BlindEvaluation(Base):
    """Two policies judged by labelers who do not know it, on the answers that an evaluation run drew from both.

    `prompts` were answered by both; of these, `identical` got the same answer twice, and are ties that nobody is asked
    about. `figures` and `verdict` are what was known when it stopped; before that they are computed from the answers.
    """

    __tablename__ = "blind_evaluations"
    __table_args__ = (
        UniqueConstraint("run_id", "candidate_id", "incumbent_id"),
        CheckConstraint("candidate_id <> incumbent_id", name="two_policies"),
        CheckConstraint("state IN ('open', 'stopped')", name="state"),
        CheckConstraint("verdict IN ('better', 'worse', 'undecided')", name="verdict"),
        CheckConstraint("(state = 'stopped') = (verdict IS NOT NULL)", name="stopped"),
        CheckConstraint("overlap BETWEEN 1 AND 16", name="overlap"),
        Index("ix_blind_evaluations_project_id", "project_id"),
        Index("ix_blind_evaluations_open", "project_id", postgresql_where=sql("state = 'open'")),
    )

    id: Mapped[IdPk]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id"))
    candidate_id: Mapped[UUID] = mapped_column(ForeignKey("model_versions.id"))
    incumbent_id: Mapped[UUID] = mapped_column(ForeignKey("model_versions.id"))
    state: Mapped[str] = mapped_column(server_default=sql("'open'"))
    overlap: Mapped[int]
    prompts: Mapped[int]
    identical: Mapped[int]
    verdict: Mapped[str | None]
    reason: Mapped[str | None]
    figures: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    created_by: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Now]
    stopped_at: Mapped[datetime | None]


class Gate(Base):
    """What a candidate has to reach in a project before it may be promoted; a threshold that is null is not asked for.

    `max_perplexity_rise` is a share of the baseline's perplexity, `max_choice_drop` in points of multiple-choice
    accuracy. With `promotes` a candidate that passes in a pipeline becomes active without waiting for an admin.
    """

    __tablename__ = "gates"
    __table_args__ = (
        CheckConstraint("min_accuracy BETWEEN 0 AND 1", name="min_accuracy"),
        CheckConstraint("min_win_rate BETWEEN 0 AND 1", name="min_win_rate"),
        CheckConstraint("min_blind_win_rate BETWEEN 0 AND 1", name="min_blind_win_rate"),
        CheckConstraint("max_kl > 0", name="max_kl"),
        CheckConstraint("max_perplexity_rise >= 0", name="max_perplexity_rise"),
        CheckConstraint("max_choice_drop BETWEEN 0 AND 1", name="max_choice_drop"),
    )

    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    min_accuracy: Mapped[float | None]
    min_win_rate: Mapped[float | None]
    min_blind_win_rate: Mapped[float | None]
    max_kl: Mapped[float | None]
    max_perplexity_rise: Mapped[float | None]
    max_choice_drop: Mapped[float | None]
    promotes: Mapped[bool] = mapped_column(server_default=sql("false"))
    changed_by: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    changed_at: Mapped[Now]


class GateVerdict(Base):
    """What the gate found of a model at one moment; append-only.

    `checks` holds, for each threshold that was set: its name, the limit, the number measured (null: none), where it
    comes from, and whether it passed.
    """

    __tablename__ = "gate_verdicts"
    __table_args__ = (Index("ix_gate_verdicts_model_id", "model_id", "id"),)

    id: Mapped[IdPk]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"), index=True)
    model_id: Mapped[UUID] = mapped_column(ForeignKey("model_versions.id"))
    passed: Mapped[bool]
    checks: Mapped[list[Any]]
    created_by: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Now]


class Promotion(Base):
    """One change of a project's active policy: which became active, which was before, and how; append-only."""

    __tablename__ = "promotions"
    __table_args__ = (
        CheckConstraint("how IN ('admin', 'gate', 'rollback')", name="how"),
        Index("ix_promotions_project_id", "project_id", "id"),
    )

    id: Mapped[IdPk]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    model_id: Mapped[UUID] = mapped_column(ForeignKey("model_versions.id"))
    previous_id: Mapped[UUID | None] = mapped_column(ForeignKey("model_versions.id"))
    how: Mapped[str]
    verdict_id: Mapped[UUID | None] = mapped_column(ForeignKey("gate_verdicts.id"))
    created_by: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Now]
