"""Tables of the machine's world: snapshots, runs with their attempts and events, model versions, workers."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Sequence, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, IdPk, Now

RUN_STATES = ("queued", "running", "succeeded", "failed", "cancelled")
TERMINAL_STATES = ("succeeded", "failed", "cancelled")

FENCE = Sequence("run_fence", metadata=Base.metadata)
"""One global sequence: a later claim of any run has a larger fence than every earlier one, and none is reused."""


class Snapshot(Base):
    """A frozen export of a project's counted answers: immutable, addressed by its content.

    `ledger` says by their hash where the ids of its lines are (`app.services.data.ledgers`); older ones have none.
    """

    __tablename__ = "snapshots"
    __table_args__ = (UniqueConstraint("project_id", "sha256"), UniqueConstraint("project_id", "number"))

    id: Mapped[IdPk]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    number: Mapped[int]
    sha256: Mapped[str]
    uri: Mapped[str]
    manifest: Mapped[dict[str, Any]]
    ledger: Mapped[dict[str, Any] | None]
    created_by: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Now]


class Run(Base):
    """One training, evaluation or sampling job. The row is the job: Celery only rings for it."""

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint(
            "method IN ('sft', 'reward', 'dpo', 'kto', 'ppo', 'rloo', 'evaluate', 'sample', 'score')",
            name="method",
        ),
        CheckConstraint("state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="state"),
        CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="lease"),
        CheckConstraint("gpus >= 1", name="gpus"),
        CheckConstraint(
            "(state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)", name="finished_at"
        ),
        Index("ix_runs_queued", "created_at", postgresql_where=text("state = 'queued'")),
        Index("ix_runs_running", "lease_until", postgresql_where=text("state = 'running'")),
    )

    id: Mapped[IdPk]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"), index=True)
    method: Mapped[str]
    name: Mapped[str]
    config: Mapped[dict[str, Any]]
    # What the run works on, by database id: {"prompts": [...]} or {"reward_model": id} or {"policies": {name: id}}
    # or {"tasks": [...], "policy": name, "random_share": number}.
    inputs: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    snapshot_id: Mapped[UUID | None] = mapped_column(ForeignKey("snapshots.id"))
    # Runs make models and start from models: the second half of that circle is added after both tables exist.
    parent_model_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("model_versions.id", use_alter=True, name="fk_runs_parent_model_id")
    )
    dedupe_key: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str] = mapped_column(server_default=text("'queued'"))
    state_reason: Mapped[str | None]
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    # So many attempts in a row without a new checkpoint, and the run is set aside: it would go on killing workers.
    max_attempts: Mapped[int] = mapped_column(server_default=text("3"))
    fruitless: Mapped[int] = mapped_column(server_default=text("0"))
    # Devices of one attempt; 1 is also a CPU. Only a worker that offers as many can claim the run.
    gpus: Mapped[int] = mapped_column(server_default=text("1"))
    not_before: Mapped[Now]
    dispatched_at: Mapped[datetime | None]
    fence: Mapped[int | None] = mapped_column(BigInteger)
    lease_owner: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    cancel_requested_by: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))
    progress_step: Mapped[int | None]
    progress_total: Mapped[int | None]
    progress_at: Mapped[datetime | None]
    log_tail: Mapped[str] = mapped_column(server_default=text("''"))
    report: Mapped[dict[str, Any] | None]
    # The artifact of what pages show of a finished run; null where there is no store, the files being in its folder.
    files_uri: Mapped[str | None]
    created_by: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Now]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class RunAttempt(Base):
    """One claim of a run by one worker, identified by its fence."""

    __tablename__ = "run_attempts"

    fence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id"), index=True)
    worker: Mapped[str]
    pid: Mapped[int | None]
    started_at: Mapped[Now]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    exit_code: Mapped[int | None]


class RunEvent(Base):
    """Append-only: every transition of a run, written in the transaction of the transition."""

    __tablename__ = "run_events"

    id: Mapped[IdPk]
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id"), index=True)
    fence: Mapped[int | None] = mapped_column(BigInteger)
    kind: Mapped[str]
    from_state: Mapped[str | None]
    to_state: Mapped[str | None]
    detail: Mapped[str | None]
    at: Mapped[Now]


class RunMetric(Base):
    """A line of `metrics.jsonl`, brought in under the fence, so that pages on any machine can draw it."""

    __tablename__ = "run_metrics"

    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    values: Mapped[dict[str, Any]]


class Checkpoint(Base):
    """A checkpoint whose manifest was verified, registered under the fence."""

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("run_id", "step", "fence"),)

    id: Mapped[IdPk]
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id"))
    fence: Mapped[int] = mapped_column(BigInteger)
    step: Mapped[int]
    uri: Mapped[str]
    manifest_sha256: Mapped[str]
    created_at: Mapped[Now]


class ModelVersion(Base):
    """A model that can be sampled from, trained further or score answers; its files never change.

    A base model has no parent, run or snapshot. At most one policy per project is promoted.
    """

    __tablename__ = "model_versions"
    __table_args__ = (
        CheckConstraint("kind IN ('policy', 'reward')", name="kind"),
        CheckConstraint("state IN ('candidate', 'promoted', 'retired')", name="state"),
        CheckConstraint("state <> 'promoted' OR kind = 'policy'", name="promoted_is_policy"),
        UniqueConstraint("project_id", "name"),
        Index(
            "uq_model_versions_promoted",
            "project_id",
            unique=True,
            postgresql_where=text("state = 'promoted'"),
        ),
    )

    id: Mapped[IdPk]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str]
    kind: Mapped[str]
    method: Mapped[str]
    uri: Mapped[str]
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("model_versions.id"))
    run_id: Mapped[UUID | None] = mapped_column(ForeignKey("runs.id"), unique=True)
    snapshot_id: Mapped[UUID | None] = mapped_column(ForeignKey("snapshots.id"))
    manifest_sha256: Mapped[str | None]
    metrics: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    state: Mapped[str] = mapped_column(server_default=text("'candidate'"))
    promoted_at: Mapped[datetime | None]
    promoted_by: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))
    created_by: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Now]


class Worker(Base):
    """A worker process that was seen lately, and what it can run."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    queue: Mapped[str]
    host: Mapped[str]
    devices: Mapped[str]
    gpus: Mapped[int] = mapped_column(server_default=text("1"))
    seen_at: Mapped[Now]
