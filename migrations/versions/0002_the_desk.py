"""the desk: judgements beside ranks, edits and undo, drafts, flags, memberships, gold tasks, quarantines.

Revision: 0002
After: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

CHECKS = (
    ("projects", "max_leases", "max_leases BETWEEN 1 AND 20"),
    ("projects", "access", "access IN ('everyone', 'members')"),
    ("projects", "gold_percent", "gold_percent BETWEEN 0 AND 50"),
    ("projects", "screening_tasks", "screening_tasks BETWEEN 0 AND 100"),
    ("projects", "screening_threshold", "screening_threshold BETWEEN 0 AND 1"),
    ("prompts", "source", "source IN ('import', 'chat')"),
    ("completions", "parent_id", "(source = 'edit') = (parent_id IS NOT NULL)"),
    ("tasks", "purpose", "purpose IN ('collect', 'gold', 'screening')"),
    ("tasks", "reference", "(purpose = 'collect') = (reference IS NULL)"),
    ("rankings", "origin", "origin IN ('task', 'edit', 'chat', 'adjudication')"),
    ("rankings", "retracts", "NOT retracts OR (supersedes IS NOT NULL AND NOT counted)"),
    ("rankings", "acceptable", "acceptable BETWEEN 0 AND jsonb_array_length(groups)"),
    ("demonstrations", "retracts", "NOT retracts OR (supersedes IS NOT NULL AND NOT counted)"),
)
# (table, name, what it says from now on, what it said before)
WIDENED = (
    ("completions", "source", "source IN ('model', 'human', 'edit')", "source IN ('model', 'human')"),
    ("tasks", "kind", "kind IN ('ranking', 'demonstration', 'edit', 'chat')", "kind IN ('ranking', 'demonstration')"),
    (
        "tasks",
        "target_overlap",
        "target_overlap >= 1 AND (target_overlap <= 16 OR purpose <> 'collect')",
        "target_overlap BETWEEN 1 AND 16",
    ),
)


def upgrade() -> None:
    op.create_table(
        "memberships",
        sa.Column("project_id", sa.UUID(), nullable=False),
        sa.Column("user_id", sa.UUID(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("decided_by", sa.UUID(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('screening', 'active', 'rejected', 'removed')", name=op.f("ck_memberships_state")
        ),
        sa.ForeignKeyConstraint(["decided_by"], ["users.id"], name=op.f("fk_memberships_decided_by")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_memberships_project_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_memberships_user_id")),
        sa.PrimaryKeyConstraint("project_id", "user_id", name=op.f("pk_memberships")),
    )
    op.create_index("ix_memberships_user_id", "memberships", ["user_id"], unique=False)
    op.create_table(
        "quarantines",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("project_id", sa.UUID(), nullable=False),
        sa.Column("user_id", sa.UUID(), nullable=True),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("created_by", sa.UUID(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("lifted_by", sa.UUID(), nullable=True),
        sa.Column("lifted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "starts_at IS NULL OR ends_at IS NULL OR starts_at < ends_at", name=op.f("ck_quarantines_range")
        ),
        sa.CheckConstraint(
            "user_id IS NOT NULL OR starts_at IS NOT NULL OR ends_at IS NOT NULL", name=op.f("ck_quarantines_bounded")
        ),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_quarantines_created_by")),
        sa.ForeignKeyConstraint(["lifted_by"], ["users.id"], name=op.f("fk_quarantines_lifted_by")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_quarantines_project_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_quarantines_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quarantines")),
    )
    op.create_index(op.f("ix_quarantines_project_id"), "quarantines", ["project_id"], unique=False)
    op.create_table(
        "guideline_reads",
        sa.Column("user_id", sa.UUID(), nullable=False),
        sa.Column("project_id", sa.UUID(), nullable=False),
        sa.Column("guideline_version_id", sa.UUID(), nullable=False),
        sa.Column("read_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["guideline_version_id"], ["guideline_versions.id"], name=op.f("fk_guideline_reads_guideline_version_id")
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_guideline_reads_project_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_guideline_reads_user_id")),
        sa.PrimaryKeyConstraint("user_id", "project_id", name=op.f("pk_guideline_reads")),
    )
    op.create_table(
        "flags",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("task_id", sa.UUID(), nullable=False),
        sa.Column("user_id", sa.UUID(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("note", sa.String(), server_default=sa.text("''"), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("resolution", sa.String(), nullable=True),
        sa.Column("resolved_by", sa.UUID(), nullable=True),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("resolution IN ('closed', 'dismissed')", name=op.f("ck_flags_resolution")),
        sa.CheckConstraint("(resolution IS NULL) = (resolved_at IS NULL)", name=op.f("ck_flags_resolved_at")),
        sa.ForeignKeyConstraint(["resolved_by"], ["users.id"], name=op.f("fk_flags_resolved_by")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_flags_task_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_flags_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_flags")),
    )
    op.create_index(op.f("ix_flags_task_id"), "flags", ["task_id"], unique=False)
    op.create_index(
        "uq_flags_open", "flags", ["task_id", "user_id"], unique=True, postgresql_where=sa.text("resolved_at IS NULL")
    )
    op.create_table(
        "drafts",
        sa.Column("assignment_id", sa.UUID(), nullable=False),
        sa.Column("fields", postgresql.JSONB(), nullable=False),
        sa.Column("saved_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.ForeignKeyConstraint(["assignment_id"], ["assignments.id"], name=op.f("fk_drafts_assignment_id")),
        sa.PrimaryKeyConstraint("assignment_id", name=op.f("pk_drafts")),
    )
    op.add_column("assignments", sa.Column("shown_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("completions", sa.Column("parent_id", sa.UUID(), nullable=True))
    op.add_column("completions", sa.Column("created_by", sa.UUID(), nullable=True))
    op.create_index(op.f("ix_completions_parent_id"), "completions", ["parent_id"], unique=False)
    op.create_foreign_key(op.f("fk_completions_parent_id"), "completions", "completions", ["parent_id"], ["id"])
    op.create_foreign_key(op.f("fk_completions_created_by"), "completions", "users", ["created_by"], ["id"])
    op.add_column("demonstrations", sa.Column("completion_id", sa.UUID(), nullable=True))
    op.add_column(
        "demonstrations", sa.Column("retracts", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column("demonstrations", sa.Column("supersedes", sa.UUID(), nullable=True))
    op.create_index(op.f("ix_demonstrations_assignment_id"), "demonstrations", ["assignment_id"], unique=False)
    op.create_unique_constraint(op.f("uq_demonstrations_supersedes"), "demonstrations", ["supersedes"])
    op.create_foreign_key(
        op.f("fk_demonstrations_completion_id"), "demonstrations", "completions", ["completion_id"], ["id"]
    )
    op.create_foreign_key(
        op.f("fk_demonstrations_supersedes"), "demonstrations", "demonstrations", ["supersedes"], ["id"]
    )
    op.add_column(
        "guideline_versions",
        sa.Column("questions", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
    )
    op.add_column("projects", sa.Column("max_leases", sa.Integer(), server_default=sa.text("2"), nullable=False))
    op.add_column("projects", sa.Column("access", sa.String(), server_default=sa.text("'everyone'"), nullable=False))
    op.add_column("projects", sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("projects", sa.Column("gold_percent", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("projects", sa.Column("screening_tasks", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column(
        "projects", sa.Column("screening_threshold", sa.Double(), server_default=sa.text("0.75"), nullable=False)
    )
    op.add_column("prompts", sa.Column("source", sa.String(), server_default=sa.text("'import'"), nullable=False))
    op.add_column(
        "prompts", sa.Column("tags", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False)
    )
    op.add_column("rankings", sa.Column("origin", sa.String(), server_default=sa.text("'task'"), nullable=False))
    op.add_column("rankings", sa.Column("strengths", postgresql.ARRAY(sa.SmallInteger()), nullable=True))
    op.add_column("rankings", sa.Column("acceptable", sa.Integer(), nullable=True))
    op.add_column(
        "rankings", sa.Column("judgements", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False)
    )
    op.add_column("rankings", sa.Column("reason", sa.String(), server_default=sa.text("''"), nullable=False))
    op.add_column("rankings", sa.Column("retracts", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_index(op.f("ix_rankings_assignment_id"), "rankings", ["assignment_id"], unique=False)
    op.add_column("tasks", sa.Column("purpose", sa.String(), server_default=sa.text("'collect'"), nullable=False))
    op.add_column("tasks", sa.Column("reference", postgresql.JSONB(), nullable=True))
    op.add_column(
        "tasks", sa.Column("required_tags", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False)
    )
    op.drop_index(
        op.f("ix_tasks_takeable"), table_name="tasks", postgresql_where=sa.text("takeable AND state = 'open'")
    )
    op.create_index(
        "ix_tasks_takeable",
        "tasks",
        ["project_id", "kind", "purpose", sa.literal_column("priority DESC"), "sort_key"],
        unique=False,
        postgresql_where=sa.text("takeable AND state = 'open'"),
    )
    op.add_column(
        "users", sa.Column("tags", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False)
    )
    for table, condition in (("rankings", "origin <> 'edit'"), ("demonstrations", "completion_id IS NULL")):
        op.create_index(
            f"ix_{table}_first",
            table,
            ["user_id", "project_id", "created_at"],
            unique=False,
            postgresql_where=sa.text(f"supersedes IS NULL AND {condition}"),
        )
        op.create_index(
            f"ix_{table}_retracts",
            table,
            ["user_id", "project_id"],
            unique=False,
            postgresql_where=sa.text("retracts"),
        )
    op.create_index("ix_assignments_user_id", "assignments", ["user_id", "id"], unique=False)
    op.create_index(
        "ix_assignments_user_expired",
        "assignments",
        ["user_id"],
        unique=False,
        postgresql_where=sa.text("state = 'expired'"),
    )
    for table, name, condition, _before in WIDENED:
        op.drop_constraint(op.f(f"ck_{table}_{name}"), table, type_="check")
        op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, condition)
    for table, name, condition in CHECKS:
        op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, condition)


def downgrade() -> None:
    for table, name, _condition in CHECKS:
        op.drop_constraint(op.f(f"ck_{table}_{name}"), table, type_="check")
    for table, name, _condition, before in WIDENED:
        op.drop_constraint(op.f(f"ck_{table}_{name}"), table, type_="check")
        op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, before)
    for table in ("rankings", "demonstrations"):
        op.drop_index(f"ix_{table}_retracts", table_name=table)
        op.drop_index(f"ix_{table}_first", table_name=table)
    op.drop_index("ix_assignments_user_id", table_name="assignments")
    op.drop_index(
        "ix_assignments_user_expired", table_name="assignments", postgresql_where=sa.text("state = 'expired'")
    )
    op.drop_column("users", "tags")
    op.drop_index("ix_tasks_takeable", table_name="tasks", postgresql_where=sa.text("takeable AND state = 'open'"))
    op.create_index(
        op.f("ix_tasks_takeable"),
        "tasks",
        ["project_id", "kind", sa.literal_column("priority DESC"), "sort_key"],
        unique=False,
        postgresql_where=sa.text("takeable AND state = 'open'"),
    )
    op.drop_column("tasks", "required_tags")
    op.drop_column("tasks", "reference")
    op.drop_column("tasks", "purpose")
    op.drop_index(op.f("ix_rankings_assignment_id"), table_name="rankings")
    op.drop_column("rankings", "retracts")
    op.drop_column("rankings", "reason")
    op.drop_column("rankings", "judgements")
    op.drop_column("rankings", "acceptable")
    op.drop_column("rankings", "strengths")
    op.drop_column("rankings", "origin")
    op.drop_column("prompts", "tags")
    op.drop_column("prompts", "source")
    op.drop_column("projects", "screening_threshold")
    op.drop_column("projects", "screening_tasks")
    op.drop_column("projects", "gold_percent")
    op.drop_column("projects", "deadline_at")
    op.drop_column("projects", "access")
    op.drop_column("projects", "max_leases")
    op.drop_column("guideline_versions", "questions")
    op.drop_constraint(op.f("fk_demonstrations_supersedes"), "demonstrations", type_="foreignkey")
    op.drop_constraint(op.f("fk_demonstrations_completion_id"), "demonstrations", type_="foreignkey")
    op.drop_constraint(op.f("uq_demonstrations_supersedes"), "demonstrations", type_="unique")
    op.drop_index(op.f("ix_demonstrations_assignment_id"), table_name="demonstrations")
    op.drop_column("demonstrations", "supersedes")
    op.drop_column("demonstrations", "retracts")
    op.drop_column("demonstrations", "completion_id")
    op.drop_constraint(op.f("fk_completions_created_by"), "completions", type_="foreignkey")
    op.drop_constraint(op.f("fk_completions_parent_id"), "completions", type_="foreignkey")
    op.drop_index(op.f("ix_completions_parent_id"), table_name="completions")
    op.drop_column("completions", "created_by")
    op.drop_column("completions", "parent_id")
    op.drop_column("assignments", "shown_at")
    op.drop_table("drafts")
    op.drop_index("uq_flags_open", table_name="flags", postgresql_where=sa.text("resolved_at IS NULL"))
    op.drop_index(op.f("ix_flags_task_id"), table_name="flags")
    op.drop_table("flags")
    op.drop_table("guideline_reads")
    op.drop_index(op.f("ix_quarantines_project_id"), table_name="quarantines")
    op.drop_table("quarantines")
    op.drop_index("ix_memberships_user_id", table_name="memberships")
    op.drop_table("memberships")
