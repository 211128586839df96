"""rounds: scoring runs, the order of the queue, and what rankings of each round and policy weigh.

Revision: 0012
After: 0011
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

METHODS = "method IN ('sft', 'reward', 'dpo', 'kto', 'ppo', 'rloo', 'evaluate', 'sample', 'score')"
METHODS_BEFORE = "method IN ('sft', 'reward', 'dpo', 'kto', 'ppo', 'rloo', 'evaluate', 'sample')"
PROJECT_CHECKS = {
    "queue_order": "queue_order IN ('arrival', 'random', 'uncertainty', 'margin')",
    "random_percent": "random_percent BETWEEN 0 AND 100",
    "round_weight_percent": "round_weight_percent BETWEEN 0 AND 100",
}


def upgrade() -> None:
    op.drop_constraint(op.f("ck_runs_method"), "runs", type_="check")
    op.create_check_constraint(op.f("ck_runs_method"), "runs", METHODS)
    op.add_column(
        "projects", sa.Column("queue_order", sa.String(), server_default=sa.text("'arrival'"), nullable=False)
    )
    op.add_column("projects", sa.Column("random_percent", sa.Integer(), server_default=sa.text("20"), nullable=False))
    op.add_column(
        "projects", sa.Column("round_weight_percent", sa.Integer(), server_default=sa.text("100"), nullable=False)
    )
    op.add_column(
        "projects",
        sa.Column("policy_weights", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
    )
    for name, condition in PROJECT_CHECKS.items():
        op.create_check_constraint(op.f(f"ck_projects_{name}"), "projects", condition)
    # A column with a constant default is added without touching a row, however many tasks there are. Its CHECK would
    # read them all, so it is added unproven and proven apart, under a lock that lets labelers work.
    op.add_column("tasks", sa.Column("round", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.execute("ALTER TABLE tasks ADD CONSTRAINT ck_tasks_round CHECK (round >= 0) NOT VALID")
    op.execute("ALTER TABLE tasks VALIDATE CONSTRAINT ck_tasks_round")
    op.create_table(
        "task_scores",
        sa.Column("task_id", sa.UUID(), nullable=False),
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("picked", sa.String(), nullable=False),
        sa.Column("information", sa.Float(), nullable=False),
        sa.Column("spread", sa.Float(), nullable=False),
        sa.Column("margin", sa.Float(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("picked IN ('random', 'uncertainty', 'margin')", name=op.f("ck_task_scores_picked")),
        sa.CheckConstraint("information >= 0 AND spread >= 0 AND margin >= 0", name=op.f("ck_task_scores_figures")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_task_scores_run_id")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_task_scores_task_id")),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_task_scores")),
    )


def downgrade() -> None:
    op.drop_table("task_scores")
    op.drop_constraint(op.f("ck_tasks_round"), "tasks", type_="check")
    op.drop_column("tasks", "round")
    for name in PROJECT_CHECKS:
        op.drop_constraint(op.f(f"ck_projects_{name}"), "projects", type_="check")
        op.drop_column("projects", name)
    op.drop_column("projects", "policy_weights")
    # The version before knows no scoring. The rows stay, because events and stages name them.
    op.execute("UPDATE runs SET method = 'evaluate' WHERE method = 'score'")
    op.drop_constraint(op.f("ck_runs_method"), "runs", type_="check")
    op.create_check_constraint(op.f("ck_runs_method"), "runs", METHODS_BEFORE)
