"""Prompts and demonstrations name the import that brought them.

Revision: 0018
After: 0014
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0014"
branch_labels = None
depends_on = None

TABLES = ("prompts", "demonstrations")


def upgrade() -> None:
    for table in TABLES:
        op.add_column(table, sa.Column("import_id", sa.UUID(), nullable=True))
        op.create_foreign_key(op.f(f"fk_{table}_import_id"), table, "imports", ["import_id"], ["id"])


def downgrade() -> None:
    for table in TABLES:
        op.drop_constraint(op.f(f"fk_{table}_import_id"), table, type_="foreignkey")
        op.drop_column(table, "import_id")
