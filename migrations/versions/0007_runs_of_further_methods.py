"""runs: KTO and RLOO are methods of runs.

Revision: 0007
After: 0006
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

METHODS = "method IN ('sft', 'reward', 'dpo', 'kto', 'ppo', 'rloo', 'evaluate', 'sample')"
BEFORE = "method IN ('sft', 'reward', 'dpo', 'ppo', 'evaluate', 'sample')"


def upgrade() -> None:
    op.drop_constraint(op.f("ck_runs_method"), "runs", type_="check")
    op.create_check_constraint(op.f("ck_runs_method"), "runs", METHODS)


def downgrade() -> None:
    op.drop_constraint(op.f("ck_runs_method"), "runs", type_="check")
    op.create_check_constraint(op.f("ck_runs_method"), "runs", BEFORE)
