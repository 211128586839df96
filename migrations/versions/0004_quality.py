"""quality: reports of agreement and reliability, and disagreements that may stand.

Revision: 0004
After: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "quality_reports",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("project_id", sa.UUID(), nullable=False),
        sa.Column("requested_by", sa.UUID(), nullable=True),
        sa.Column(
            "requested_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("computed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("body", postgresql.JSONB(), nullable=True),
        sa.Column("problem", sa.String(), nullable=True),
        sa.CheckConstraint(
            "(computed_at IS NULL) = (body IS NULL AND problem IS NULL)", name=op.f("ck_quality_reports_computed_at")
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_quality_reports_project_id")),
        sa.ForeignKeyConstraint(["requested_by"], ["users.id"], name=op.f("fk_quality_reports_requested_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quality_reports")),
    )
    op.create_index(
        "uq_quality_reports_waiting",
        "quality_reports",
        ["project_id"],
        unique=True,
        postgresql_where=sa.text("computed_at IS NULL"),
    )
    op.create_index(
        "ix_quality_reports_project_id_computed_at", "quality_reports", ["project_id", "computed_at"], unique=False
    )
    op.create_table(
        "dismissals",
        sa.Column("task_id", sa.UUID(), nullable=False),
        sa.Column("user_id", sa.UUID(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_dismissals_task_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_dismissals_user_id")),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_dismissals")),
    )


def downgrade() -> None:
    op.drop_table("dismissals")
    op.drop_table("quality_reports")
