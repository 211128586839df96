"""ledgers: which rows the lines of a snapshot came from.

Revision: 0011
After: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("snapshots", sa.Column("ledger", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("snapshots", "ledger")
