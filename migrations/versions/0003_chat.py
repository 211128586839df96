"""live chat: the models that take part, chats, turns, and the two answers of each.

Revision: 0003
After: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "chat_settings",
        sa.Column("project_id", sa.UUID(), nullable=False),
        sa.Column("max_turns", sa.Integer(), server_default=sa.text("20"), nullable=False),
        sa.Column("max_characters", sa.Integer(), server_default=sa.text("40000"), nullable=False),
        sa.CheckConstraint("max_characters BETWEEN 500 AND 400000", name=op.f("ck_chat_settings_max_characters")),
        sa.CheckConstraint("max_turns BETWEEN 1 AND 200", name=op.f("ck_chat_settings_max_turns")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_chat_settings_project_id")),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_chat_settings")),
    )
    op.create_table(
        "chats",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("project_id", sa.UUID(), nullable=False),
        sa.Column("user_id", sa.UUID(), nullable=False),
        sa.Column("state", sa.String(), server_default=sa.text("'open'"), nullable=False),
        sa.Column("split", sa.String(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'ended') = (ended_at IS NOT NULL)", name=op.f("ck_chats_ended_at")),
        sa.CheckConstraint("split IN ('train', 'held_out')", name=op.f("ck_chats_split")),
        sa.CheckConstraint("state IN ('open', 'ended')", name=op.f("ck_chats_state")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_chats_project_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_chats_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chats")),
    )
    op.create_index("ix_chats_user_project", "chats", ["user_id", "project_id"], unique=False)
    op.create_table(
        "chat_models",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("project_id", sa.UUID(), nullable=False),
        sa.Column("endpoint", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("model_version_id", sa.UUID(), nullable=True),
        sa.Column("weight", sa.Integer(), nullable=False),
        sa.Column("temperature", sa.Double(), nullable=False),
        sa.Column("max_tokens", sa.Integer(), nullable=False),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_by", sa.UUID(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint(
            "endpoint <> 'local' OR model_version_id IS NOT NULL", name=op.f("ck_chat_models_local_version")
        ),
        sa.CheckConstraint("max_tokens BETWEEN 1 AND 4096", name=op.f("ck_chat_models_max_tokens")),
        sa.CheckConstraint("temperature >= 0 AND temperature <= 2", name=op.f("ck_chat_models_temperature")),
        sa.CheckConstraint("weight BETWEEN 1 AND 100", name=op.f("ck_chat_models_weight")),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_chat_models_created_by")),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_versions.id"], name=op.f("fk_chat_models_model_version_id")
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_chat_models_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chat_models")),
        sa.UniqueConstraint(
            "project_id", "endpoint", "model", "temperature", "max_tokens", name="uq_chat_models_settings"
        ),
    )
    op.create_table(
        "chat_turns",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("chat_id", sa.UUID(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("state", sa.String(), server_default=sa.text("'open'"), nullable=False),
        sa.Column("chosen", sa.String(), nullable=True),
        sa.Column("ranking_id", sa.UUID(), nullable=True),
        sa.Column("guideline_version_id", sa.UUID(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("shown_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'judged') = (ranking_id IS NOT NULL)", name=op.f("ck_chat_turns_ranking_id")),
        sa.CheckConstraint("(state = 'open') = (chosen IS NULL)", name=op.f("ck_chat_turns_decided")),
        sa.CheckConstraint("chosen IN ('a', 'b')", name=op.f("ck_chat_turns_chosen")),
        sa.CheckConstraint("state IN ('open', 'judged', 'passed')", name=op.f("ck_chat_turns_state")),
        sa.CheckConstraint("number >= 1", name=op.f("ck_chat_turns_number")),
        sa.ForeignKeyConstraint(["chat_id"], ["chats.id"], name=op.f("fk_chat_turns_chat_id")),
        sa.ForeignKeyConstraint(
            ["guideline_version_id"], ["guideline_versions.id"], name=op.f("fk_chat_turns_guideline_version_id")
        ),
        sa.ForeignKeyConstraint(["ranking_id"], ["rankings.id"], name=op.f("fk_chat_turns_ranking_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chat_turns")),
        sa.UniqueConstraint("chat_id", "number", name=op.f("uq_chat_turns_chat_id_number")),
        sa.UniqueConstraint("ranking_id", name=op.f("uq_chat_turns_ranking_id")),
    )
    op.create_table(
        "chat_answers",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("turn_id", sa.UUID(), nullable=False),
        sa.Column("side", sa.String(), nullable=False),
        sa.Column("chat_model_id", sa.UUID(), nullable=False),
        sa.Column("state", sa.String(), server_default=sa.text("'waiting'"), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("text", sa.String(), server_default=sa.text("''"), nullable=False),
        sa.Column("finish_reason", sa.String(), nullable=True),
        sa.Column("failure", sa.String(), nullable=True),
        sa.Column("streaming_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("first_text_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'failed') = (failure IS NOT NULL)", name=op.f("ck_chat_answers_failure")),
        sa.CheckConstraint(
            "(state = 'streaming') = (streaming_until IS NOT NULL)", name=op.f("ck_chat_answers_streaming_until")
        ),
        sa.CheckConstraint("side IN ('a', 'b')", name=op.f("ck_chat_answers_side")),
        sa.CheckConstraint("state IN ('waiting', 'streaming', 'done', 'failed')", name=op.f("ck_chat_answers_state")),
        sa.ForeignKeyConstraint(["chat_model_id"], ["chat_models.id"], name=op.f("fk_chat_answers_chat_model_id")),
        sa.ForeignKeyConstraint(["turn_id"], ["chat_turns.id"], name=op.f("fk_chat_answers_turn_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chat_answers")),
        sa.UniqueConstraint("turn_id", "side", name=op.f("uq_chat_answers_turn_id_side")),
    )


def downgrade() -> None:
    op.drop_table("chat_answers")
    op.drop_table("chat_turns")
    op.drop_table("chat_models")
    op.drop_index("ix_chats_user_project", table_name="chats")
    op.drop_table("chats")
    op.drop_table("chat_settings")
