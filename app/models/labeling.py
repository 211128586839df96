"""Tables of the labeler's world: projects, guidelines, prompts, completions, tasks, assignments, answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Computed, ForeignKey, Index, SmallInteger, Text, UniqueConstraint
from sqlalchemy import text as sql  # a column here is named text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db import Base, IdPk, Now

_NO_TAGS = sql("'{}'")


class Project(Base):
    """A collection effort: its guidelines, K answers a task, how many labelers judge each, how long a lease lasts.

    `access` says who may work here: everyone, or the members only. A labeler without a standing first answers
    `screening_tasks` tasks whose answer is known, and is let in from `screening_threshold` agreement on.
    `gold_percent` of the tasks handed out are gold ones; while policies are judged blind, `blind_percent` are tasks of
    that. After `deadline_at` nothing new is handed out.
    `queue_order` says what waiting training tasks are ordered by, `random_percent` how many of them by chance all the
    same. A snapshot weighs a ranking `round_weight_percent` less with every round it is older, and by `policy_weights`.
    """

    __tablename__ = "projects"
    __table_args__ = (
        CheckConstraint("k BETWEEN 2 AND 9", name="k"),
        CheckConstraint("overlap BETWEEN 1 AND 16", name="overlap"),
        CheckConstraint("lease_minutes BETWEEN 1 AND 1440", name="lease_minutes"),
        CheckConstraint("held_out_fraction >= 0 AND held_out_fraction <= 0.9", name="held_out_fraction"),
        CheckConstraint("state IN ('open', 'paused', 'archived')", name="state"),
        CheckConstraint("max_leases BETWEEN 1 AND 20", name="max_leases"),
        CheckConstraint("access IN ('everyone', 'members')", name="access"),
        CheckConstraint("gold_percent BETWEEN 0 AND 50", name="gold_percent"),
        CheckConstraint("blind_percent BETWEEN 1 AND 100", name="blind_percent"),
        CheckConstraint("screening_tasks BETWEEN 0 AND 100", name="screening_tasks"),
        CheckConstraint("screening_threshold BETWEEN 0 AND 1", name="screening_threshold"),
        CheckConstraint("queue_order IN ('arrival', 'random', 'uncertainty', 'margin')", name="queue_order"),
        CheckConstraint("random_percent BETWEEN 0 AND 100", name="random_percent"),
        CheckConstraint("round_weight_percent BETWEEN 0 AND 100", name="round_weight_percent"),
    )

    id: Mapped[IdPk]
    name: Mapped[str] = mapped_column(unique=True)
    k: Mapped[int]
    overlap: Mapped[int]
    lease_minutes: Mapped[int]
    held_out_fraction: Mapped[float]
    state: Mapped[str] = mapped_column(server_default=sql("'open'"))
    max_leases: Mapped[int] = mapped_column(server_default=sql("2"))
    access: Mapped[str] = mapped_column(server_default=sql("'everyone'"))
    deadline_at: Mapped[datetime | None]
    gold_percent: Mapped[int] = mapped_column(server_default=sql("0"))
    blind_percent: Mapped[int] = mapped_column(server_default=sql("50"))
    screening_tasks: Mapped[int] = mapped_column(server_default=sql("0"))
    screening_threshold: Mapped[float] = mapped_column(server_default=sql("0.75"))
    queue_order: Mapped[str] = mapped_column(server_default=sql("'arrival'"))
    random_percent: Mapped[int] = mapped_column(server_default=sql("20"))
    round_weight_percent: Mapped[int] = mapped_column(server_default=sql("100"))
    policy_weights: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    created_by: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Now]


class GuidelineVersion(Base):
    """One wording of a project's guidelines, in Markdown, and what its board asks (`app.services.projects.questions`).

    Every ranking names the version it was made under, and so the questions that its answers belong to.
    """

    __tablename__ = "guideline_versions"
    __table_args__ = (UniqueConstraint("project_id", "version"),)

    id: Mapped[IdPk]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    version: Mapped[int]
    body: Mapped[str]
    questions: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    created_by: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Now]


class Prompt(Base):
    """A conversation that ends on the user's turn; the same conversation stands once in a project.

    `tags` name what a labeler needs for it, such as `lang:de` or `medicine`; its tasks ask for them. `import_id` names
    the file that brought it, where that was one with its source.
    """

    __tablename__ = "prompts"
    __table_args__ = (
        UniqueConstraint("project_id", "content_sha256"),
        UniqueConstraint("project_id", "position"),
        CheckConstraint("split IN ('train', 'held_out')", name="split"),
        CheckConstraint("source IN ('import', 'chat')", name="source"),
    )

    id: Mapped[IdPk]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    position: Mapped[int]
    messages: Mapped[list[Any]]
    content_sha256: Mapped[str]
    split: Mapped[str]
    source: Mapped[str] = mapped_column(server_default=sql("'import'"))
    import_id: Mapped[UUID | None] = mapped_column(ForeignKey("imports.id"))
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=_NO_TAGS)
    created_at: Mapped[Now]


class Completion(Base):
    """One answer to a prompt, sampled from a model, written by a person, or a person's edit of `parent_id`.

    Never changed.
    """

    __tablename__ = "completions"
    __table_args__ = (
        CheckConstraint("source IN ('model', 'human', 'edit')", name="source"),
        CheckConstraint("(source = 'edit') = (parent_id IS NOT NULL)", name="parent_id"),
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
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("completions.id"), index=True)
    created_by: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Now]


class Task(Base):
    """A prompt to be judged (or answered). The counters live here, so the row's lock re-checks them at hand-out.

    Chat turns and edits are tasks that were born answered. A task whose purpose is `gold` or `screening` knows its
    answer: `reference` holds tie groups of completion ids. It measures labelers, and never becomes training data.
    Nor does an `evaluation` task, which measures policies: it belongs to the blind evaluation `evaluation_id`.
    `round` numbers the refreshes of a project: 0 for tasks from before the first one.
    """

    __tablename__ = "tasks"
    __table_args__ = (
        CheckConstraint("kind IN ('ranking', 'demonstration', 'edit', 'chat', 'import')", name="kind"),
        CheckConstraint("purpose IN ('collect', 'gold', 'screening', 'evaluation')", name="purpose"),
        CheckConstraint("(purpose IN ('gold', 'screening')) = (reference IS NOT NULL)", name="reference"),
        CheckConstraint("(purpose = 'evaluation') = (evaluation_id IS NOT NULL)", name="evaluation_id"),
        CheckConstraint("state IN ('draft', 'open', 'closed')", name="state"),
        CheckConstraint(
            "target_overlap >= 1 AND (target_overlap <= 16 OR purpose IN ('gold', 'screening'))", name="target_overlap"
        ),
        CheckConstraint("open_leases >= 0 AND done_count >= 0", name="counters"),
        CheckConstraint("round >= 0", name="round"),
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
            "purpose",
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
    purpose: Mapped[str] = mapped_column(server_default=sql("'collect'"))
    reference: Mapped[list[Any] | None]
    required_tags: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=_NO_TAGS)
    priority: Mapped[int] = mapped_column(server_default=sql("0"))
    sort_key: Mapped[int]
    target_overlap: Mapped[int]
    open_leases: Mapped[int] = mapped_column(server_default=sql("0"))
    done_count: Mapped[int] = mapped_column(server_default=sql("0"))
    takeable: Mapped[bool] = mapped_column(Computed("open_leases + done_count < target_overlap", persisted=True))
    sampling_run_id: Mapped[UUID | None] = mapped_column(ForeignKey("runs.id"))
    evaluation_id: Mapped[UUID | None] = mapped_column(ForeignKey("blind_evaluations.id"), index=True)
    round: Mapped[int] = mapped_column(server_default=sql("0"))
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
    """A task leased to one labeler, with the order in which the answers are shown to them.

    `shown_at` is empty while a lease was only taken ahead, so that the next task is at hand without a wait.
    """

    __tablename__ = "assignments"
    __table_args__ = (
        UniqueConstraint("task_id", "user_id"),
        CheckConstraint("state IN ('leased', 'done', 'skipped', 'expired', 'released')", name="state"),
        CheckConstraint("(state = 'skipped') = (skip_reason IS NOT NULL)", name="skip_reason"),
        Index("ix_assignments_leased", "expires_at", postgresql_where=sql("state = 'leased'")),
        Index("ix_assignments_user_id", "user_id", "id"),
        Index("ix_assignments_user_leased", "user_id", postgresql_where=sql("state = 'leased'")),
        Index("ix_assignments_user_expired", "user_id", postgresql_where=sql("state = 'expired'")),
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
    shown_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    skip_reason: Mapped[str | None]

    task: Mapped[Task] = relationship(lazy="raise")


class Ranking(Base):
    """One labeler's judgement, as given. Append-only: an edit or an undo is a new row that `supersedes` the old.

    `groups` are tie groups of completion ids, best first; answers that no group names stand below all of them, in no
    order. `strengths` holds, for each pair of neighbouring groups, 1 slightly, 2 clearly, 3 much, or null; it is null
    where nothing was asked. `acceptable` is how many of the first groups are acceptable, null when the line was not
    drawn. `judgements` holds the answers to the criteria by completion id. An undo `retracts`: it has no groups.
    `counted` is false for work that came after the lease had gone to another; it is kept, with its reason.
    """

    __tablename__ = "rankings"
    __table_args__ = (
        CheckConstraint("counted OR not_counted_reason IS NOT NULL", name="not_counted_reason"),
        CheckConstraint("origin IN ('task', 'edit', 'chat', 'adjudication', 'import')", name="origin"),
        CheckConstraint("(origin = 'import') = (import_id IS NOT NULL)", name="import_id"),
        CheckConstraint("NOT retracts OR (supersedes IS NOT NULL AND NOT counted)", name="retracts"),
        CheckConstraint("acceptable BETWEEN 0 AND jsonb_array_length(groups)", name="acceptable"),
        Index("ix_rankings_project_created", "project_id", "created_at", "id"),
        Index(
            "ix_rankings_first",
            "user_id",
            "project_id",
            "created_at",
            postgresql_where=sql("supersedes IS NULL AND origin <> 'edit'"),
        ),
        Index("ix_rankings_retracts", "user_id", "project_id", postgresql_where=sql("retracts")),
    )

    id: Mapped[IdPk]
    submit_id: Mapped[UUID] = mapped_column(unique=True)
    body_sha256: Mapped[str]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    task_id: Mapped[UUID] = mapped_column(ForeignKey("tasks.id"), index=True)
    assignment_id: Mapped[UUID] = mapped_column(ForeignKey("assignments.id"), index=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), index=True)
    guideline_version_id: Mapped[UUID] = mapped_column(ForeignKey("guideline_versions.id"))
    origin: Mapped[str] = mapped_column(server_default=sql("'task'"))
    import_id: Mapped[UUID | None] = mapped_column(ForeignKey("imports.id"))
    groups: Mapped[list[Any]]
    strengths: Mapped[list[int | None] | None] = mapped_column(ARRAY(SmallInteger))
    acceptable: Mapped[int | None]
    judgements: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    reason: Mapped[str] = mapped_column(server_default=sql("''"))
    shown_order: Mapped[list[UUID]] = mapped_column(ARRAY(PG_UUID(as_uuid=True)))
    is_simulated: Mapped[bool]
    counted: Mapped[bool]
    not_counted_reason: Mapped[str | None]
    seconds: Mapped[float]
    retracts: Mapped[bool] = mapped_column(server_default=sql("false"))
    supersedes: Mapped[UUID | None] = mapped_column(ForeignKey("rankings.id"), unique=True)
    created_at: Mapped[Now]


class Demonstration(Base):
    """The ideal answer to a prompt, written by a labeler, or their edit of an answer (`completion_id`). Append-only.

    An edit later or an undo is a new row that `supersedes` the old; an undo `retracts` and has no text. One that was
    written elsewhere names its `import_id`.
    """

    __tablename__ = "demonstrations"
    __table_args__ = (
        CheckConstraint("counted OR not_counted_reason IS NOT NULL", name="not_counted_reason"),
        CheckConstraint("NOT retracts OR (supersedes IS NOT NULL AND NOT counted)", name="retracts"),
        Index(
            "ix_demonstrations_first",
            "user_id",
            "project_id",
            "created_at",
            postgresql_where=sql("supersedes IS NULL AND completion_id IS NULL"),
        ),
        Index("ix_demonstrations_retracts", "user_id", "project_id", postgresql_where=sql("retracts")),
    )

    id: Mapped[IdPk]
    submit_id: Mapped[UUID] = mapped_column(unique=True)
    body_sha256: Mapped[str]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"), index=True)
    task_id: Mapped[UUID] = mapped_column(ForeignKey("tasks.id"), index=True)
    assignment_id: Mapped[UUID] = mapped_column(ForeignKey("assignments.id"), index=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), index=True)
    guideline_version_id: Mapped[UUID] = mapped_column(ForeignKey("guideline_versions.id"))
    completion_id: Mapped[UUID | None] = mapped_column(ForeignKey("completions.id"))
    import_id: Mapped[UUID | None] = mapped_column(ForeignKey("imports.id"))
    text: Mapped[str]
    is_simulated: Mapped[bool]
    counted: Mapped[bool]
    not_counted_reason: Mapped[str | None]
    seconds: Mapped[float]
    retracts: Mapped[bool] = mapped_column(server_default=sql("false"))
    supersedes: Mapped[UUID | None] = mapped_column(ForeignKey("demonstrations.id"), unique=True)
    created_at: Mapped[Now]
