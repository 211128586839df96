"""the first schema.

Revision: 0001
After:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

APPEND_ONLY = ("rankings", "demonstrations", "run_events", "audit_events")


def upgrade() -> None:
    op.execute(sa.schema.CreateSequence(sa.Sequence("run_fence")))
    op.create_table(
        "sign_in_attempts",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sign_in_attempts")),
    )
    op.create_index("ix_sign_in_attempts_subject_at", "sign_in_attempts", ["subject", "at"], unique=False)
    op.create_table(
        "users",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("password_hash", sa.String(), nullable=False),
        sa.Column("is_simulated", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("role IN ('labeler', 'reviewer', 'admin')", name=op.f("ck_users_role")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
    )
    op.create_index("uq_users_email_lower", "users", [sa.literal_column("lower(email)")], unique=True)
    op.create_table(
        "workers",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("queue", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("devices", sa.String(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_table(
        "audit_events",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("actor_id", sa.UUID(), nullable=True),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("object_type", sa.String(), nullable=False),
        sa.Column("object_id", sa.String(), nullable=False),
        sa.Column(
            "detail", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.ForeignKeyConstraint(["actor_id"], ["users.id"], name=op.f("fk_audit_events_actor_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_events")),
    )
    op.create_table(
        "invitations",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("is_simulated", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("token_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("invited_by", sa.UUID(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("redeemed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("redeemed_by", sa.UUID(), nullable=True),
        sa.CheckConstraint("role IN ('labeler', 'reviewer', 'admin')", name=op.f("ck_invitations_role")),
        sa.ForeignKeyConstraint(["invited_by"], ["users.id"], name=op.f("fk_invitations_invited_by")),
        sa.ForeignKeyConstraint(["redeemed_by"], ["users.id"], name=op.f("fk_invitations_redeemed_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invitations")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_invitations_token_sha256")),
    )
    op.create_table(
        "projects",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("k", sa.Integer(), nullable=False),
        sa.Column("overlap", sa.Integer(), nullable=False),
        sa.Column("lease_minutes", sa.Integer(), nullable=False),
        sa.Column("held_out_fraction", sa.Double(), nullable=False),
        sa.Column("state", sa.String(), server_default=sa.text("'open'"), nullable=False),
        sa.Column("created_by", sa.UUID(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("state IN ('open', 'paused', 'archived')", name=op.f("ck_projects_state")),
        sa.CheckConstraint(
            "held_out_fraction >= 0 AND held_out_fraction <= 0.9", name=op.f("ck_projects_held_out_fraction")
        ),
        sa.CheckConstraint("k BETWEEN 2 AND 9", name=op.f("ck_projects_k")),
        sa.CheckConstraint("lease_minutes BETWEEN 1 AND 1440", name=op.f("ck_projects_lease_minutes")),
        sa.CheckConstraint("overlap BETWEEN 1 AND 16", name=op.f("ck_projects_overlap")),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_projects_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
        sa.UniqueConstraint("name", name=op.f("uq_projects_name")),
    )
    op.create_table(
        "web_sessions",
        sa.Column("token_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("user_id", sa.UUID(), nullable=False),
        sa.Column("csrf_token", sa.String(), nullable=False),
        sa.Column("user_agent", sa.String(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "last_seen_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_web_sessions_user_id")),
        sa.PrimaryKeyConstraint("token_sha256", name=op.f("pk_web_sessions")),
    )
    op.create_index(op.f("ix_web_sessions_user_id"), "web_sessions", ["user_id"], unique=False)
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("user_id", sa.UUID(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("public_id", sa.String(), nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("project_id", sa.UUID(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_api_tokens_project_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_api_tokens_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("public_id", name=op.f("uq_api_tokens_public_id")),
    )
    op.create_index(op.f("ix_api_tokens_user_id"), "api_tokens", ["user_id"], unique=False)
    op.create_table(
        "guideline_versions",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("project_id", sa.UUID(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("created_by", sa.UUID(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_guideline_versions_created_by")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_guideline_versions_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_guideline_versions")),
        sa.UniqueConstraint("project_id", "version", name=op.f("uq_guideline_versions_project_id_version")),
    )
    op.create_table(
        "prompts",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("project_id", sa.UUID(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("messages", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("content_sha256", sa.String(), nullable=False),
        sa.Column("split", sa.String(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("split IN ('train', 'held_out')", name=op.f("ck_prompts_split")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_prompts_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prompts")),
        sa.UniqueConstraint("project_id", "content_sha256", name=op.f("uq_prompts_project_id_content_sha256")),
        sa.UniqueConstraint("project_id", "position", name=op.f("uq_prompts_project_id_position")),
    )
    op.create_table(
        "snapshots",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("project_id", sa.UUID(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("uri", sa.String(), nullable=False),
        sa.Column("manifest", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_by", sa.UUID(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_snapshots_created_by")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_snapshots_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_snapshots")),
        sa.UniqueConstraint("project_id", "number", name=op.f("uq_snapshots_project_id_number")),
        sa.UniqueConstraint("project_id", "sha256", name=op.f("uq_snapshots_project_id_sha256")),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("project_id", sa.UUID(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("config", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "inputs", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("snapshot_id", sa.UUID(), nullable=True),
        sa.Column("parent_model_id", sa.UUID(), nullable=True),
        sa.Column("dedupe_key", sa.String(), nullable=False),
        sa.Column("state", sa.String(), server_default=sa.text("'queued'"), nullable=False),
        sa.Column("state_reason", sa.String(), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("max_attempts", sa.Integer(), server_default=sa.text("3"), nullable=False),
        sa.Column(
            "not_before", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("dispatched_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=True),
        sa.Column("lease_owner", sa.String(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested_by", sa.UUID(), nullable=True),
        sa.Column("progress_step", sa.Integer(), nullable=True),
        sa.Column("progress_total", sa.Integer(), nullable=True),
        sa.Column("progress_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("log_tail", sa.String(), server_default=sa.text("''"), nullable=False),
        sa.Column("report", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_by", sa.UUID(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_runs_lease")),
        sa.CheckConstraint(
            "(state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)",
            name=op.f("ck_runs_finished_at"),
        ),
        sa.CheckConstraint(
            "method IN ('sft', 'reward', 'dpo', 'ppo', 'evaluate', 'sample')", name=op.f("ck_runs_method")
        ),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_runs_state")
        ),
        sa.ForeignKeyConstraint(["cancel_requested_by"], ["users.id"], name=op.f("fk_runs_cancel_requested_by")),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_runs_created_by")),
        sa.ForeignKeyConstraint(
            ["parent_model_id"], ["model_versions.id"], name="fk_runs_parent_model_id", use_alter=True
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_runs_project_id")),
        sa.ForeignKeyConstraint(["snapshot_id"], ["snapshots.id"], name=op.f("fk_runs_snapshot_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        sa.UniqueConstraint("dedupe_key", name=op.f("uq_runs_dedupe_key")),
    )
    op.create_index(op.f("ix_runs_project_id"), "runs", ["project_id"], unique=False)
    op.create_index(
        "ix_runs_queued", "runs", ["created_at"], unique=False, postgresql_where=sa.text("state = 'queued'")
    )
    op.create_index(
        "ix_runs_running", "runs", ["lease_until"], unique=False, postgresql_where=sa.text("state = 'running'")
    )
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("uri", sa.String(), nullable=False),
        sa.Column("manifest_sha256", sa.String(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_checkpoints_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoints")),
        sa.UniqueConstraint("run_id", "step", "fence", name=op.f("uq_checkpoints_run_id_step_fence")),
    )
    op.create_table(
        "model_versions",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("project_id", sa.UUID(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("uri", sa.String(), nullable=False),
        sa.Column("parent_id", sa.UUID(), nullable=True),
        sa.Column("run_id", sa.UUID(), nullable=True),
        sa.Column("snapshot_id", sa.UUID(), nullable=True),
        sa.Column("manifest_sha256", sa.String(), nullable=True),
        sa.Column(
            "metrics", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("state", sa.String(), server_default=sa.text("'candidate'"), nullable=False),
        sa.Column("promoted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("promoted_by", sa.UUID(), nullable=True),
        sa.Column("created_by", sa.UUID(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("kind IN ('policy', 'reward')", name=op.f("ck_model_versions_kind")),
        sa.CheckConstraint("state <> 'promoted' OR kind = 'policy'", name=op.f("ck_model_versions_promoted_is_policy")),
        sa.CheckConstraint("state IN ('candidate', 'promoted', 'retired')", name=op.f("ck_model_versions_state")),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_model_versions_created_by")),
        sa.ForeignKeyConstraint(["parent_id"], ["model_versions.id"], name=op.f("fk_model_versions_parent_id")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_model_versions_project_id")),
        sa.ForeignKeyConstraint(["promoted_by"], ["users.id"], name=op.f("fk_model_versions_promoted_by")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_model_versions_run_id")),
        sa.ForeignKeyConstraint(["snapshot_id"], ["snapshots.id"], name=op.f("fk_model_versions_snapshot_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_versions")),
        sa.UniqueConstraint("project_id", "name", name=op.f("uq_model_versions_project_id_name")),
        sa.UniqueConstraint("run_id", name=op.f("uq_model_versions_run_id")),
    )
    op.create_index(op.f("ix_model_versions_project_id"), "model_versions", ["project_id"], unique=False)
    op.create_index(
        "uq_model_versions_promoted",
        "model_versions",
        ["project_id"],
        unique=True,
        postgresql_where=sa.text("state = 'promoted'"),
    )
    op.create_table(
        "run_attempts",
        sa.Column("fence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("worker", sa.String(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.String(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_attempts_run_id")),
        sa.PrimaryKeyConstraint("fence", name=op.f("pk_run_attempts")),
    )
    op.create_index(op.f("ix_run_attempts_run_id"), "run_attempts", ["run_id"], unique=False)
    op.create_table(
        "run_events",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("from_state", sa.String(), nullable=True),
        sa.Column("to_state", sa.String(), nullable=True),
        sa.Column("detail", sa.String(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_events_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run_events")),
    )
    op.create_index(op.f("ix_run_events_run_id"), "run_events", ["run_id"], unique=False)
    op.create_table(
        "run_metrics",
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("values", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_metrics_run_id")),
        sa.PrimaryKeyConstraint("run_id", "step", name=op.f("pk_run_metrics")),
    )
    op.create_table(
        "tasks",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("project_id", sa.UUID(), nullable=False),
        sa.Column("prompt_id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", sa.String(), server_default=sa.text("'draft'"), nullable=False),
        sa.Column("priority", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("sort_key", sa.Integer(), nullable=False),
        sa.Column("target_overlap", sa.Integer(), nullable=False),
        sa.Column("open_leases", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("done_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "takeable",
            sa.Boolean(),
            sa.Computed("open_leases + done_count < target_overlap", persisted=True),
            nullable=False,
        ),
        sa.Column("sampling_run_id", sa.UUID(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("kind IN ('ranking', 'demonstration')", name=op.f("ck_tasks_kind")),
        sa.CheckConstraint("state IN ('draft', 'open', 'closed')", name=op.f("ck_tasks_state")),
        sa.CheckConstraint("open_leases + done_count <= target_overlap", name=op.f("ck_tasks_overlap")),
        sa.CheckConstraint("open_leases >= 0 AND done_count >= 0", name=op.f("ck_tasks_counters")),
        sa.CheckConstraint("target_overlap BETWEEN 1 AND 16", name=op.f("ck_tasks_target_overlap")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_tasks_project_id")),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompts.id"], name=op.f("fk_tasks_prompt_id")),
        sa.ForeignKeyConstraint(["sampling_run_id"], ["runs.id"], name=op.f("fk_tasks_sampling_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
        sa.UniqueConstraint("sampling_run_id", "prompt_id", name=op.f("uq_tasks_sampling_run_id_prompt_id")),
    )
    op.create_index(op.f("ix_tasks_prompt_id"), "tasks", ["prompt_id"], unique=False)
    op.create_index(
        "uq_tasks_demonstration_prompt_id",
        "tasks",
        ["prompt_id"],
        unique=True,
        postgresql_where=sa.text("kind = 'demonstration'"),
    )
    op.create_index(
        "ix_tasks_takeable",
        "tasks",
        ["project_id", "kind", sa.literal_column("priority DESC"), "sort_key"],
        unique=False,
        postgresql_where=sa.text("takeable AND state = 'open'"),
    )
    op.create_table(
        "assignments",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("task_id", sa.UUID(), nullable=False),
        sa.Column("user_id", sa.UUID(), nullable=False),
        sa.Column("state", sa.String(), server_default=sa.text("'leased'"), nullable=False),
        sa.Column("submit_id", sa.UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("shown_order", postgresql.ARRAY(sa.UUID()), nullable=False),
        sa.Column("guideline_version_id", sa.UUID(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("skip_reason", sa.String(), nullable=True),
        sa.CheckConstraint("(state = 'skipped') = (skip_reason IS NOT NULL)", name=op.f("ck_assignments_skip_reason")),
        sa.CheckConstraint(
            "state IN ('leased', 'done', 'skipped', 'expired', 'released')", name=op.f("ck_assignments_state")
        ),
        sa.ForeignKeyConstraint(
            ["guideline_version_id"], ["guideline_versions.id"], name=op.f("fk_assignments_guideline_version_id")
        ),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_assignments_task_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_assignments_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assignments")),
        sa.UniqueConstraint("submit_id", name=op.f("uq_assignments_submit_id")),
        sa.UniqueConstraint("task_id", "user_id", name=op.f("uq_assignments_task_id_user_id")),
    )
    op.create_index(
        "ix_assignments_leased",
        "assignments",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("state = 'leased'"),
    )
    op.create_index(
        "ix_assignments_user_leased",
        "assignments",
        ["user_id"],
        unique=False,
        postgresql_where=sa.text("state = 'leased'"),
    )
    op.create_table(
        "completions",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("prompt_id", sa.UUID(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("model_version_id", sa.UUID(), nullable=True),
        sa.Column("run_id", sa.UUID(), nullable=True),
        sa.Column("sample_index", sa.Integer(), nullable=True),
        sa.Column(
            "sampling", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("finish_reason", sa.String(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("source IN ('model', 'human')", name=op.f("ck_completions_source")),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_versions.id"], name=op.f("fk_completions_model_version_id")
        ),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompts.id"], name=op.f("fk_completions_prompt_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_completions_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_completions")),
        sa.UniqueConstraint(
            "run_id", "prompt_id", "sample_index", name=op.f("uq_completions_run_id_prompt_id_sample_index")
        ),
    )
    op.create_index(op.f("ix_completions_prompt_id"), "completions", ["prompt_id"], unique=False)
    op.create_table(
        "demonstrations",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("submit_id", sa.UUID(), nullable=False),
        sa.Column("body_sha256", sa.String(), nullable=False),
        sa.Column("project_id", sa.UUID(), nullable=False),
        sa.Column("task_id", sa.UUID(), nullable=False),
        sa.Column("assignment_id", sa.UUID(), nullable=False),
        sa.Column("user_id", sa.UUID(), nullable=False),
        sa.Column("guideline_version_id", sa.UUID(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("is_simulated", sa.Boolean(), nullable=False),
        sa.Column("counted", sa.Boolean(), nullable=False),
        sa.Column("not_counted_reason", sa.String(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint(
            "counted OR not_counted_reason IS NOT NULL", name=op.f("ck_demonstrations_not_counted_reason")
        ),
        sa.ForeignKeyConstraint(["assignment_id"], ["assignments.id"], name=op.f("fk_demonstrations_assignment_id")),
        sa.ForeignKeyConstraint(
            ["guideline_version_id"], ["guideline_versions.id"], name=op.f("fk_demonstrations_guideline_version_id")
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_demonstrations_project_id")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_demonstrations_task_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_demonstrations_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_demonstrations")),
        sa.UniqueConstraint("submit_id", name=op.f("uq_demonstrations_submit_id")),
    )
    op.create_index(op.f("ix_demonstrations_project_id"), "demonstrations", ["project_id"], unique=False)
    op.create_index(op.f("ix_demonstrations_task_id"), "demonstrations", ["task_id"], unique=False)
    op.create_index(op.f("ix_demonstrations_user_id"), "demonstrations", ["user_id"], unique=False)
    op.create_table(
        "rankings",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("submit_id", sa.UUID(), nullable=False),
        sa.Column("body_sha256", sa.String(), nullable=False),
        sa.Column("project_id", sa.UUID(), nullable=False),
        sa.Column("task_id", sa.UUID(), nullable=False),
        sa.Column("assignment_id", sa.UUID(), nullable=False),
        sa.Column("user_id", sa.UUID(), nullable=False),
        sa.Column("guideline_version_id", sa.UUID(), nullable=False),
        sa.Column("groups", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("shown_order", postgresql.ARRAY(sa.UUID()), nullable=False),
        sa.Column("is_simulated", sa.Boolean(), nullable=False),
        sa.Column("counted", sa.Boolean(), nullable=False),
        sa.Column("not_counted_reason", sa.String(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("supersedes", sa.UUID(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("counted OR not_counted_reason IS NOT NULL", name=op.f("ck_rankings_not_counted_reason")),
        sa.ForeignKeyConstraint(["assignment_id"], ["assignments.id"], name=op.f("fk_rankings_assignment_id")),
        sa.ForeignKeyConstraint(
            ["guideline_version_id"], ["guideline_versions.id"], name=op.f("fk_rankings_guideline_version_id")
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_rankings_project_id")),
        sa.ForeignKeyConstraint(["supersedes"], ["rankings.id"], name=op.f("fk_rankings_supersedes")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_rankings_task_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_rankings_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rankings")),
        sa.UniqueConstraint("submit_id", name=op.f("uq_rankings_submit_id")),
        sa.UniqueConstraint("supersedes", name=op.f("uq_rankings_supersedes")),
    )
    op.create_index("ix_rankings_project_created", "rankings", ["project_id", "created_at", "id"], unique=False)
    op.create_index(op.f("ix_rankings_task_id"), "rankings", ["task_id"], unique=False)
    op.create_index(op.f("ix_rankings_user_id"), "rankings", ["user_id"], unique=False)
    op.create_table(
        "task_completions",
        sa.Column("task_id", sa.UUID(), nullable=False),
        sa.Column("completion_id", sa.UUID(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["completion_id"], ["completions.id"], name=op.f("fk_task_completions_completion_id")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_task_completions_task_id")),
        sa.PrimaryKeyConstraint("task_id", "completion_id", name=op.f("pk_task_completions")),
        sa.UniqueConstraint("task_id", "position", name=op.f("uq_task_completions_task_id_position")),
    )
    op.create_foreign_key("fk_runs_parent_model_id", "runs", "model_versions", ["parent_model_id"], ["id"])
    op.execute(
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'rows of % are never changed', TG_TABLE_NAME; END $$"
    )
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )


def downgrade() -> None:
    op.drop_constraint("fk_runs_parent_model_id", "runs", type_="foreignkey")
    op.drop_table("task_completions")
    op.drop_index(op.f("ix_rankings_user_id"), table_name="rankings")
    op.drop_index(op.f("ix_rankings_task_id"), table_name="rankings")
    op.drop_index("ix_rankings_project_created", table_name="rankings")
    op.drop_table("rankings")
    op.drop_index(op.f("ix_demonstrations_user_id"), table_name="demonstrations")
    op.drop_index(op.f("ix_demonstrations_task_id"), table_name="demonstrations")
    op.drop_index(op.f("ix_demonstrations_project_id"), table_name="demonstrations")
    op.drop_table("demonstrations")
    op.drop_index(op.f("ix_completions_prompt_id"), table_name="completions")
    op.drop_table("completions")
    op.drop_index("ix_assignments_user_leased", table_name="assignments", postgresql_where=sa.text("state = 'leased'"))
    op.drop_index("ix_assignments_leased", table_name="assignments", postgresql_where=sa.text("state = 'leased'"))
    op.drop_table("assignments")
    op.drop_index("ix_tasks_takeable", table_name="tasks", postgresql_where=sa.text("takeable AND state = 'open'"))
    op.drop_index(
        "uq_tasks_demonstration_prompt_id", table_name="tasks", postgresql_where=sa.text("kind = 'demonstration'")
    )
    op.drop_index(op.f("ix_tasks_prompt_id"), table_name="tasks")
    op.drop_table("tasks")
    op.drop_table("run_metrics")
    op.drop_index(op.f("ix_run_events_run_id"), table_name="run_events")
    op.drop_table("run_events")
    op.drop_index(op.f("ix_run_attempts_run_id"), table_name="run_attempts")
    op.drop_table("run_attempts")
    op.drop_index(
        "uq_model_versions_promoted", table_name="model_versions", postgresql_where=sa.text("state = 'promoted'")
    )
    op.drop_index(op.f("ix_model_versions_project_id"), table_name="model_versions")
    op.drop_table("model_versions")
    op.drop_table("checkpoints")
    op.drop_index("ix_runs_running", table_name="runs", postgresql_where=sa.text("state = 'running'"))
    op.drop_index("ix_runs_queued", table_name="runs", postgresql_where=sa.text("state = 'queued'"))
    op.drop_index(op.f("ix_runs_project_id"), table_name="runs")
    op.drop_table("runs")
    op.drop_table("snapshots")
    op.drop_table("prompts")
    op.drop_table("guideline_versions")
    op.drop_index(op.f("ix_api_tokens_user_id"), table_name="api_tokens")
    op.drop_table("api_tokens")
    op.drop_index(op.f("ix_web_sessions_user_id"), table_name="web_sessions")
    op.drop_table("web_sessions")
    op.drop_table("projects")
    op.drop_table("invitations")
    op.drop_table("audit_events")
    op.drop_table("workers")
    op.drop_index("uq_users_email_lower", table_name="users")
    op.drop_table("users")
    op.drop_index("ix_sign_in_attempts_subject_at", table_name="sign_in_attempts")
    op.drop_table("sign_in_attempts")
    op.execute("DROP FUNCTION refuse_change()")
    op.execute(sa.schema.DropSequence(sa.Sequence("run_fence")))
