"""imports: rankings that were made elsewhere, and labelers who cannot sign in.

Revision: 0005
After: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Constraints that get wider: table, name, the new condition, the one before.
WIDENED = (
    (
        "rankings",
        "origin",
        "origin IN ('task', 'edit', 'chat', 'adjudication', 'import')",
        "origin IN ('task', 'edit', 'chat', 'adjudication')",
    ),
    (
        "tasks",
        "kind",
        "kind IN ('ranking', 'demonstration', 'edit', 'chat', 'import')",
        "kind IN ('ranking', 'demonstration', 'edit', 'chat')",
    ),
)


def upgrade() -> None:
    op.create_table(
        "imports",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("project_id", sa.UUID(), nullable=False),
        sa.Column("dataset", sa.String(), nullable=False),
        sa.Column("format", sa.String(), nullable=False),
        sa.Column("judge", sa.String(), nullable=False),
        sa.Column("report", postgresql.JSONB(), nullable=False),
        sa.Column("created_by", sa.UUID(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("judge IN ('human', 'ai')", name=op.f("ck_imports_judge")),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_imports_created_by")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_imports_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imports")),
    )
    op.create_index(op.f("ix_imports_project_id"), "imports", ["project_id"], unique=False)
    op.add_column("users", sa.Column("is_imported", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_check_constraint(op.f("ck_users_is_imported"), "users", "NOT is_imported OR disabled_at IS NOT NULL")
    op.add_column("rankings", sa.Column("import_id", sa.UUID(), nullable=True))
    op.create_foreign_key(op.f("fk_rankings_import_id"), "rankings", "imports", ["import_id"], ["id"])
    for table, name, condition, _before in WIDENED:
        op.drop_constraint(op.f(f"ck_{table}_{name}"), table, type_="check")
        op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, condition)
    op.create_check_constraint(
        op.f("ck_rankings_import_id"), "rankings", "(origin = 'import') = (import_id IS NOT NULL)"
    )


def downgrade() -> None:
    op.drop_constraint(op.f("ck_rankings_import_id"), "rankings", type_="check")
    for table, name, _condition, before in WIDENED:
        op.drop_constraint(op.f(f"ck_{table}_{name}"), table, type_="check")
        op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, before)
    op.drop_constraint(op.f("fk_rankings_import_id"), "rankings", type_="foreignkey")
    op.drop_column("rankings", "import_id")
    op.drop_constraint(op.f("ck_users_is_imported"), "users", type_="check")
    op.drop_column("users", "is_imported")
    op.drop_index(op.f("ix_imports_project_id"), table_name="imports")
    op.drop_table("imports")
