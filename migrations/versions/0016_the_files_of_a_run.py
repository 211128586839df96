"""runs: where the files of a finished run lie that its page shows.

Revision: 0016
After: 0017
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("files_uri", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("runs", "files_uri")
