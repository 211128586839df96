"""evaluation: blind evaluations, the gate and its verdicts, promotions.

Revision: 0010
After: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# Constraints of tasks that change: name, the new condition, the one before.
CHANGED = (
    (
        "purpose",
        "purpose IN ('collect', 'gold', 'screening', 'evaluation')",
        "purpose IN ('collect', 'gold', 'screening')",
    ),
    (
        "reference",
        "(purpose IN ('gold', 'screening')) = (reference IS NOT NULL)",
        "(purpose = 'collect') = (reference IS NULL)",
    ),
    (
        "target_overlap",
        "target_overlap >= 1 AND (target_overlap <= 16 OR purpose IN ('gold', 'screening'))",
        "target_overlap >= 1 AND (target_overlap <= 16 OR purpose <> 'collect')",
    ),
)


def _id() -> sa.Column[object]:
    return sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False)


def _now(name: str = "created_at") -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False)


def upgrade() -> None:
    op.create_table(
        "blind_evaluations",
        _id(),
        sa.Column("project_id", sa.UUID(), nullable=False),
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("candidate_id", sa.UUID(), nullable=False),
        sa.Column("incumbent_id", sa.UUID(), nullable=False),
        sa.Column("state", sa.String(), server_default=sa.text("'open'"), nullable=False),
        sa.Column("overlap", sa.Integer(), nullable=False),
        sa.Column("prompts", sa.Integer(), nullable=False),
        sa.Column("identical", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("figures", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("created_by", sa.UUID(), nullable=False),
        _now(),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("candidate_id <> incumbent_id", name=op.f("ck_blind_evaluations_two_policies")),
        sa.CheckConstraint("state IN ('open', 'stopped')", name=op.f("ck_blind_evaluations_state")),
        sa.CheckConstraint("verdict IN ('better', 'worse', 'undecided')", name=op.f("ck_blind_evaluations_verdict")),
        sa.CheckConstraint("(state = 'stopped') = (verdict IS NOT NULL)", name=op.f("ck_blind_evaluations_stopped")),
        sa.CheckConstraint("overlap BETWEEN 1 AND 16", name=op.f("ck_blind_evaluations_overlap")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_blind_evaluations_project_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_blind_evaluations_run_id")),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["model_versions.id"], name=op.f("fk_blind_evaluations_candidate_id")
        ),
        sa.ForeignKeyConstraint(
            ["incumbent_id"], ["model_versions.id"], name=op.f("fk_blind_evaluations_incumbent_id")
        ),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_blind_evaluations_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_blind_evaluations")),
        sa.UniqueConstraint(
            "run_id", "candidate_id", "incumbent_id", name=op.f("uq_blind_evaluations_run_id_candidate_id_incumbent_id")
        ),
    )
    op.create_index(op.f("ix_blind_evaluations_project_id"), "blind_evaluations", ["project_id"])
    op.create_index(
        op.f("ix_blind_evaluations_open"),
        "blind_evaluations",
        ["project_id"],
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_table(
        "gates",
        sa.Column("project_id", sa.UUID(), nullable=False),
        sa.Column("min_accuracy", sa.Float(), nullable=True),
        sa.Column("min_win_rate", sa.Float(), nullable=True),
        sa.Column("min_blind_win_rate", sa.Float(), nullable=True),
        sa.Column("max_kl", sa.Float(), nullable=True),
        sa.Column("max_perplexity_rise", sa.Float(), nullable=True),
        sa.Column("max_choice_drop", sa.Float(), nullable=True),
        sa.Column("promotes", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("changed_by", sa.UUID(), nullable=False),
        _now("changed_at"),
        sa.CheckConstraint("min_accuracy BETWEEN 0 AND 1", name=op.f("ck_gates_min_accuracy")),
        sa.CheckConstraint("min_win_rate BETWEEN 0 AND 1", name=op.f("ck_gates_min_win_rate")),
        sa.CheckConstraint("min_blind_win_rate BETWEEN 0 AND 1", name=op.f("ck_gates_min_blind_win_rate")),
        sa.CheckConstraint("max_kl > 0", name=op.f("ck_gates_max_kl")),
        sa.CheckConstraint("max_perplexity_rise >= 0", name=op.f("ck_gates_max_perplexity_rise")),
        sa.CheckConstraint("max_choice_drop BETWEEN 0 AND 1", name=op.f("ck_gates_max_choice_drop")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_gates_project_id")),
        sa.ForeignKeyConstraint(["changed_by"], ["users.id"], name=op.f("fk_gates_changed_by")),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_gates")),
    )
    op.create_table(
        "gate_verdicts",
        _id(),
        sa.Column("project_id", sa.UUID(), nullable=False),
        sa.Column("model_id", sa.UUID(), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("checks", postgresql.JSONB(), nullable=False),
        sa.Column("created_by", sa.UUID(), nullable=True),
        _now(),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_gate_verdicts_project_id")),
        sa.ForeignKeyConstraint(["model_id"], ["model_versions.id"], name=op.f("fk_gate_verdicts_model_id")),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_gate_verdicts_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gate_verdicts")),
    )
    op.create_index(op.f("ix_gate_verdicts_project_id"), "gate_verdicts", ["project_id"])
    op.create_index(op.f("ix_gate_verdicts_model_id"), "gate_verdicts", ["model_id", "id"])
    op.create_table(
        "promotions",
        _id(),
        sa.Column("project_id", sa.UUID(), nullable=False),
        sa.Column("model_id", sa.UUID(), nullable=False),
        sa.Column("previous_id", sa.UUID(), nullable=True),
        sa.Column("how", sa.String(), nullable=False),
        sa.Column("verdict_id", sa.UUID(), nullable=True),
        sa.Column("created_by", sa.UUID(), nullable=True),
        _now(),
        sa.CheckConstraint("how IN ('admin', 'gate', 'rollback')", name=op.f("ck_promotions_how")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_promotions_project_id")),
        sa.ForeignKeyConstraint(["model_id"], ["model_versions.id"], name=op.f("fk_promotions_model_id")),
        sa.ForeignKeyConstraint(["previous_id"], ["model_versions.id"], name=op.f("fk_promotions_previous_id")),
        sa.ForeignKeyConstraint(["verdict_id"], ["gate_verdicts.id"], name=op.f("fk_promotions_verdict_id")),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_promotions_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_promotions")),
    )
    op.create_index(op.f("ix_promotions_project_id"), "promotions", ["project_id", "id"])
    op.add_column("projects", sa.Column("blind_percent", sa.Integer(), server_default=sa.text("50"), nullable=False))
    op.create_check_constraint(op.f("ck_projects_blind_percent"), "projects", "blind_percent BETWEEN 1 AND 100")
    op.add_column("tasks", sa.Column("evaluation_id", sa.UUID(), nullable=True))
    op.create_index(op.f("ix_tasks_evaluation_id"), "tasks", ["evaluation_id"])
    op.create_foreign_key(op.f("fk_tasks_evaluation_id"), "tasks", "blind_evaluations", ["evaluation_id"], ["id"])
    for name, condition, _before in CHANGED:
        op.drop_constraint(op.f(f"ck_tasks_{name}"), "tasks", type_="check")
        op.create_check_constraint(op.f(f"ck_tasks_{name}"), "tasks", condition)
    op.create_check_constraint(
        op.f("ck_tasks_evaluation_id"), "tasks", "(purpose = 'evaluation') = (evaluation_id IS NOT NULL)"
    )


def downgrade() -> None:
    op.drop_constraint(op.f("ck_tasks_evaluation_id"), "tasks", type_="check")
    for name, _condition, before in CHANGED:
        op.drop_constraint(op.f(f"ck_tasks_{name}"), "tasks", type_="check")
        op.create_check_constraint(op.f(f"ck_tasks_{name}"), "tasks", before)
    op.drop_constraint(op.f("fk_tasks_evaluation_id"), "tasks", type_="foreignkey")
    op.drop_index(op.f("ix_tasks_evaluation_id"), table_name="tasks")
    op.drop_column("tasks", "evaluation_id")
    op.drop_constraint(op.f("ck_projects_blind_percent"), "projects", type_="check")
    op.drop_column("projects", "blind_percent")
    for table in ("promotions", "gate_verdicts", "gates", "blind_evaluations"):
        op.drop_table(table)
