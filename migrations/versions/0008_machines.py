"""machines: how many GPUs a run asks for and a worker offers, and attempts in a row that came to nothing.

Revision: 0008
After: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("gpus", sa.Integer(), server_default=sa.text("1"), nullable=False))
    op.add_column("runs", sa.Column("fruitless", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.create_check_constraint(op.f("ck_runs_gpus"), "runs", "gpus >= 1")
    op.add_column("workers", sa.Column("gpus", sa.Integer(), server_default=sa.text("1"), nullable=False))


def downgrade() -> None:
    op.drop_column("workers", "gpus")
    op.drop_constraint(op.f("ck_runs_gpus"), "runs", type_="check")
    op.drop_column("runs", "fruitless")
    op.drop_column("runs", "gpus")
