"""pipelines: recipes that chain runs, and the schedules that start them.

Revision: 0006
After: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

NOW = sa.text("clock_timestamp()")


def _id() -> sa.Column[object]:
    return sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False)


def _time(name: str, *, nullable: bool = True, now: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), server_default=NOW if now else None, nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "schedules",
        _id(),
        sa.Column("project_id", sa.UUID(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("cron", sa.String(), nullable=False),
        sa.Column("timezone", sa.String(), nullable=False),
        sa.Column("recipe", postgresql.JSONB(), nullable=False),
        sa.Column("choices", postgresql.JSONB(), nullable=True),
        sa.Column("min_new_rankings", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("catch_up", sa.String(), server_default=sa.text("'latest'"), nullable=False),
        sa.Column("overlap", sa.String(), server_default=sa.text("'skip'"), nullable=False),
        sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        _time("next_due_at", nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("created_by", sa.UUID(), nullable=False),
        _time("created_at", nullable=False, now=True),
        sa.CheckConstraint("catch_up IN ('latest', 'all', 'skip')", name=op.f("ck_schedules_catch_up")),
        sa.CheckConstraint("overlap IN ('skip', 'queue', 'cancel_running')", name=op.f("ck_schedules_overlap")),
        sa.CheckConstraint("min_new_rankings >= 0", name=op.f("ck_schedules_min_new_rankings")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_schedules_project_id")),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_schedules_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedules")),
        sa.UniqueConstraint("project_id", "name", name=op.f("uq_schedules_project_id_name")),
    )
    op.create_index("ix_schedules_next_due_at", "schedules", ["next_due_at"])
    op.create_table(
        "pipelines",
        _id(),
        sa.Column("project_id", sa.UUID(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("recipe", postgresql.JSONB(), nullable=False),
        sa.Column("schedule_id", sa.UUID(), nullable=True),
        sa.Column("state", sa.String(), server_default=sa.text("'running'"), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("dedupe_key", sa.String(), nullable=False),
        sa.Column("created_by", sa.UUID(), nullable=False),
        _time("created_at", nullable=False, now=True),
        _time("finished_at"),
        sa.CheckConstraint("state IN ('running', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_pipelines_state")),
        sa.CheckConstraint("(state = 'running') = (finished_at IS NULL)", name=op.f("ck_pipelines_finished_at")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_pipelines_project_id")),
        sa.ForeignKeyConstraint(["schedule_id"], ["schedules.id"], name=op.f("fk_pipelines_schedule_id")),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_pipelines_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pipelines")),
        sa.UniqueConstraint("project_id", "number", name=op.f("uq_pipelines_project_id_number")),
        sa.UniqueConstraint("dedupe_key", name=op.f("uq_pipelines_dedupe_key")),
    )
    running = sa.text("state = 'running'")
    op.create_index("uq_pipelines_running", "pipelines", ["schedule_id"], unique=True, postgresql_where=running)
    op.create_index("ix_pipelines_running", "pipelines", ["id"], postgresql_where=running)
    op.create_index("ix_pipelines_schedule_id", "pipelines", ["schedule_id", "created_at"])
    op.create_table(
        "pipeline_stages",
        _id(),
        sa.Column("pipeline_id", sa.UUID(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("state", sa.String(), server_default=sa.text("'waiting'"), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("run_id", sa.UUID(), nullable=True),
        sa.Column("detail", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        _time("started_at"),
        _time("finished_at"),
        sa.CheckConstraint(
            "state IN ('waiting', 'running', 'succeeded', 'failed', 'skipped', 'cancelled')",
            name=op.f("ck_pipeline_stages_state"),
        ),
        sa.CheckConstraint(
            "(state IN ('succeeded', 'failed', 'skipped', 'cancelled')) = (finished_at IS NOT NULL)",
            name=op.f("ck_pipeline_stages_finished_at"),
        ),
        sa.ForeignKeyConstraint(["pipeline_id"], ["pipelines.id"], name=op.f("fk_pipeline_stages_pipeline_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_pipeline_stages_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pipeline_stages")),
        sa.UniqueConstraint(
            "pipeline_id", "position", "attempt", name=op.f("uq_pipeline_stages_pipeline_id_position_attempt")
        ),
    )
    op.create_index("ix_pipeline_stages_run_id", "pipeline_stages", ["run_id"])
    op.create_table(
        "occurrences",
        sa.Column("schedule_id", sa.UUID(), nullable=False),
        _time("due_at", nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("pipeline_id", sa.UUID(), nullable=True),
        sa.Column("asked_by", sa.UUID(), nullable=True),
        _time("created_at", nullable=False, now=True),
        sa.CheckConstraint("state IN ('started', 'queued', 'skipped')", name=op.f("ck_occurrences_state")),
        sa.CheckConstraint("(state = 'started') = (pipeline_id IS NOT NULL)", name=op.f("ck_occurrences_pipeline_id")),
        sa.CheckConstraint("state <> 'skipped' OR reason IS NOT NULL", name=op.f("ck_occurrences_reason")),
        sa.ForeignKeyConstraint(["schedule_id"], ["schedules.id"], name=op.f("fk_occurrences_schedule_id")),
        sa.ForeignKeyConstraint(["pipeline_id"], ["pipelines.id"], name=op.f("fk_occurrences_pipeline_id")),
        sa.ForeignKeyConstraint(["asked_by"], ["users.id"], name=op.f("fk_occurrences_asked_by")),
        sa.PrimaryKeyConstraint("schedule_id", "due_at", name=op.f("pk_occurrences")),
        sa.UniqueConstraint("pipeline_id", name=op.f("uq_occurrences_pipeline_id")),
    )
    op.create_index(
        "ix_occurrences_queued",
        "occurrences",
        ["schedule_id", "due_at"],
        postgresql_where=sa.text("state = 'queued'"),
    )


def downgrade() -> None:
    for table in ("occurrences", "pipeline_stages", "pipelines", "schedules"):
        op.drop_table(table)
